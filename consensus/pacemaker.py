"""The view and its timers (Jolteon, section 3.3): when to give up, when to say so again."""

from __future__ import annotations

from consensus.effects import ReplicaConfig


class Pacemaker:
    """Current view, when it was entered, and when patience ends.

    A view lasts `timeout_ms`, half as much again after every view that failed, up to the cap, and
    `timeout_ms` again after one that succeeded. While there is nothing to order the leader may
    wait for its heartbeat, so the timer waits that much longer.
    """

    __slots__ = ("_config", "entered_ms", "failures", "said_ms", "view")

    def __init__(self, config: ReplicaConfig, view: int) -> None:
        self._config = config
        self.view = view
        self.entered_ms = 0
        self.failures = 0
        self.said_ms: int | None = None

    def enter(self, view: int, now_ms: int, *, failed: bool) -> None:
        """Go to a higher view; `failed` where a TC and not a QC leads there."""
        self.failures = self.failures + 1 if failed else 0
        self.view = view
        self.entered_ms = now_ms
        self.said_ms = None

    def gave_up(self, now_ms: int) -> None:
        """A timeout for this view was just broadcast."""
        self.said_ms = now_ms

    def patience_ms(self) -> int:
        """Length of the current view's timer."""
        config = self._config
        patience = config.timeout_ms
        for _ in range(self.failures):
            patience += patience // 2
            if patience >= config.timeout_max_ms:
                return config.timeout_max_ms
        return patience

    def deadline_ms(self, busy_since_ms: int | None, idle_ms: int | None) -> int | None:
        """When to broadcast a timeout, first or again; None while nothing is expected.

        `busy_since_ms` is when there came to be something to order, None while there is nothing;
        `idle_ms` how long the leader may wait then, None for ever.
        """
        if self.said_ms is not None:
            return self.said_ms + self._config.timeout_ms
        if busy_since_ms is not None:
            return max(self.entered_ms, busy_since_ms) + self.patience_ms()
        return None if idle_ms is None else self.entered_ms + idle_ms + self.patience_ms()
