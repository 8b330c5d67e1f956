"""Before a started member signs anything, it asks the others what they remember of its key.

A voting state that was lost, or restored from a backup, cannot be told from a good one by looking
at it. But a member's statements stand in certificates, and with those who received them: a quorum
(itself included) must have answered without showing any that the state does not know.
"""

from __future__ import annotations

from consensus.members import MemberSet


class Rejoining:
    """Who has answered so far; `done` from the quorum on, for the rest of the process's life."""

    __slots__ = ("_answered", "_index", "_members", "_period_ms", "_sent_ms", "done", "number")

    def __init__(self, index: int | None, members: MemberSet, period_ms: int) -> None:
        self._index = index
        self._members = members
        self._period_ms = period_ms
        self._answered: set[int] = set() if index is None else {index}
        self._sent_ms: int | None = None
        self.number = 0
        self.done = False
        self._settle()

    def in_epoch(self, index: int | None, members: MemberSet) -> Rejoining:
        """The same in the next epoch: nothing more to do once it is done."""
        following = Rejoining(index, members, self._period_ms)
        following.done = following.done or (self.done and self._index is not None)
        return following

    def _settle(self) -> None:
        stake = sum(self._members.stakes[member] for member in self._answered)
        self.done = self.done or self._members.quorum(stake)

    @property
    def waiting(self) -> bool:
        """Whether a member may not sign yet."""
        return not self.done and self._index is not None

    def due_ms(self, now_ms: int) -> int | None:
        """When to ask, first or again."""
        if not self.waiting:
            return None
        return now_ms if self._sent_ms is None else self._sent_ms + self._period_ms

    def ask(self, now_ms: int) -> bool:
        """Whether to ask now."""
        due_ms = self.due_ms(now_ms)
        if due_ms is None or now_ms < due_ms:
            return False
        if self._sent_ms is None:
            self.number = now_ms
        self._sent_ms = now_ms
        return True

    def answered(self, member: int) -> None:
        """A member's answer was taken and showed nothing unknown."""
        self._answered.add(member)
        self._settle()
