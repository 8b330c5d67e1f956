"""Agent keys of a master account: what an approval or a revocation does to them.

Only the account's owner asks for either, by the number of the master account itself: who may act
for a master then follows from the ordered log alone, whatever its sub-accounts are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from margin.account import REVOKED
from protocol.actions import ApproveAgent, RevokeAgent
from protocol.errors import Code

AGENT_BYTES = 32
"""Length of an agent's public key."""

REVOKED_PER_LIVE = 8
"""Revoked keys are kept up to so many times the limit of live ones."""


class Change(NamedTuple):
    """What becomes of the keys: `code` says why nothing does, `dropped` gives way (empty: none) to
    the action's key, which is good until `expires_ms` then."""

    code: Code
    expires_ms: int = REVOKED
    dropped: bytes = b""


def approved(agents: Mapping[bytes, int], action: ApproveAgent, time_ms: int, limit: int) -> Change:
    """An approval, or the move of an expiry, where `limit` live keys may be: one that has expired
    gives way to a new one. A revoked key stays revoked."""
    if len(action.agent) != AGENT_BYTES:
        return Change(Code.WRONG_TYPE)
    before = agents.get(action.agent)
    if before == REVOKED:
        return Change(Code.AGENT_REVOKED)
    if action.expires_ms <= time_ms:
        return Change(Code.AGENT_EXPIRED)
    if before is not None:
        return Change(Code.OK, action.expires_ms)
    live = {agent: expires_ms for agent, expires_ms in agents.items() if expires_ms != REVOKED}
    if len(agents) - len(live) >= REVOKED_PER_LIVE * limit:
        return Change(Code.TOO_MANY_AGENTS)
    if len(live) < limit:
        return Change(Code.OK, action.expires_ms)
    expires_ms, oldest = min((expires_ms, agent) for agent, expires_ms in live.items())
    if expires_ms >= time_ms:
        return Change(Code.TOO_MANY_AGENTS)
    return Change(Code.OK, action.expires_ms, oldest)


def revoked(agents: Mapping[bytes, int], action: RevokeAgent) -> Change:
    """A revocation, which is for ever."""
    before = agents.get(action.agent)
    if before is None:
        return Change(Code.UNKNOWN_SIGNER)
    return Change(Code.AGENT_REVOKED if before == REVOKED else Code.OK)
