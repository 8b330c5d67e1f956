"""BFT replica as a pure machine, and verification of certificates for everybody."""

from __future__ import annotations

from consensus.effects import (
    Application,
    BlockSource,
    Broadcast,
    Committed,
    Effect,
    EpochBegan,
    Event,
    FellBehind,
    Misbehaviour,
    Persist,
    PersistBlock,
    Received,
    RecoveredState,
    ReplicaConfig,
    Send,
    Start,
    Tick,
    Work,
)
from consensus.members import MemberSet
from consensus.replica import Replica
from consensus.safety import Safety, Signer, VotingState, decode_voting_state
from consensus.verify import (
    VerifiedCache,
    Verifier,
    verify_certificate,
    verify_qc,
    verify_tc,
)

__all__ = [
    "Application",
    "BlockSource",
    "Broadcast",
    "Committed",
    "Effect",
    "EpochBegan",
    "Event",
    "FellBehind",
    "MemberSet",
    "Misbehaviour",
    "Persist",
    "PersistBlock",
    "Received",
    "RecoveredState",
    "Replica",
    "ReplicaConfig",
    "Safety",
    "Send",
    "Signer",
    "Start",
    "Tick",
    "VerifiedCache",
    "Verifier",
    "VotingState",
    "Work",
    "decode_voting_state",
    "verify_certificate",
    "verify_qc",
    "verify_tc",
]
