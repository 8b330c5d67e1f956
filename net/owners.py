"""Who is told about sessions: the owner of each, and the server that admits them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from net.session import Session


class SessionOwner(Protocol):
    """Who is told about a session. Callbacks run in the loop and must not block.

    A `Rejected` raised by `on_open` or `on_frames` closes the session with its code as the reason.
    Any other exception from `on_frames` is our own fault: it reaches the loop's exception handler
    (under ``exception``), where the process should stop, and the session is aborted.
    """

    def on_open(self, session: Session) -> None:
        """The connection (with TLS) is established."""

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        """Complete frames arrived, in order."""

    def on_close(self, session: Session, error: Exception | None) -> None:
        """The connection is gone; called once for each `on_open`.

        `error` is a `Rejected` where the peer's own fault ended it (bad frame, slow consumer).
        """


class SessionRegistry(Protocol):
    """Admits sessions and remembers them (a server)."""

    def admit(self, session: Session) -> bool:
        """Whether the session may start."""

    def forget(self, session: Session) -> None:
        """The connection is gone."""
