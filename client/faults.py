"""What a failure means to somebody at a terminal: one sentence and an exit status."""

from __future__ import annotations

import errno

from client.channel import RETRIED, Unreachable
from client.submission import ActionRejected
from client.units import readable
from protocol.errors import (
    Code,
    ConfigError,
    Rejected,
    RemoteFault,
    SafetyViolation,
    TrilemmaError,
)
from store.files import REMEDIES

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REJECTED = 3
EXIT_NO_PROGRESS = 4
EXIT_SAFETY = 5
EXIT_INVALID_PROOF = 6
EXIT_INTERRUPTED = 130

_NO_BYTES = frozenset(REMEDIES) - {errno.EIO}
"""Errors of writing alone; without a name they are of the standard output, which has none."""

_PROOF_CODES = frozenset((Code.BAD_PROOF, Code.BAD_CERTIFICATE))


class InvalidProof(TrilemmaError):
    """Something that was to be proven is not (exit 6)."""


class NoProgress(TrilemmaError):
    """What was waited for did not happen in time (exit 4)."""


def explain(error: BaseException) -> tuple[str, int] | None:
    """The sentence and the exit status of a failure; None for a bug of ours."""
    found = _explain(error)
    return None if found is None else (readable(found[0]), found[1])


def _explain(error: BaseException) -> tuple[str, int] | None:
    if isinstance(error, ConfigError):
        return str(error), EXIT_USAGE
    if isinstance(error, SafetyViolation):
        return f"safety violation: {error}", EXIT_SAFETY
    if isinstance(error, InvalidProof):
        return f"invalid proof: {error}", EXIT_INVALID_PROOF
    if isinstance(error, Unreachable | NoProgress | TimeoutError):
        return str(error) or "nothing happened in time", EXIT_NO_PROGRESS
    if isinstance(error, Rejected | RemoteFault):
        return _explain_refusal(error)
    if isinstance(error, TrilemmaError):
        return str(error), EXIT_FAILED
    if isinstance(error, ConnectionError):
        named = f": {error}" if str(error) else ""
        return f"the connection was lost{named}", EXIT_NO_PROGRESS
    if isinstance(error, OSError):
        return _explain_system(error), EXIT_FAILED
    return None


def _explain_system(error: OSError) -> str:
    text = str(error.strerror or error)
    if error.filename:
        if error.errno in _NO_BYTES:
            return f"cannot write {error.filename}: {text}; {REMEDIES[error.errno]}"
        return f"{text}: {error.filename}"
    if error.errno in _NO_BYTES:
        return (
            f"cannot write the output: {text}; what was to be submitted, such as an order, may be "
            "placed all the same: see trilemma account"
        )
    return text


def _explain_refusal(error: Rejected | RemoteFault) -> tuple[str, int]:
    if error.code in _PROOF_CODES:
        return f"invalid proof: {error}", EXIT_INVALID_PROOF
    if error.code in RETRIED:
        return f"no progress: {error}", EXIT_NO_PROGRESS
    if isinstance(error, ActionRejected):
        return f"rejected: {error}", EXIT_REJECTED
    return f"refused: {error}", EXIT_REJECTED
