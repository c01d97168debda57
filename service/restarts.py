"""How long a process that ended stays away before the supervisor starts it again."""

from collections.abc import Hashable


class Pauses:
    """A pause doubles with each end that follows soon, and is short again after a healthy while.

    What crashes at once, such as by a database that is gone, would otherwise keep a core busy
    with importing and fill the log.
    """

    def __init__(self, *, first_s: float, longest_s: float, healthy_s: float) -> None:
        self._first_s, self._longest_s, self._healthy_s = first_s, longest_s, healthy_s
        self._started: dict[Hashable, float] = {}
        self._last: dict[Hashable, float] = {}

    def started(self, role: Hashable, now: float) -> None:
        """It was started at ``now``, seconds of a clock that never goes back."""
        self._started[role] = now

    def after(self, role: Hashable, now: float) -> float:
        """Seconds to wait for one that was found ended at ``now``."""
        lived = now - self._started[role]
        last = self._last.get(role)
        pause = (
            self._first_s
            if last is None or lived >= self._healthy_s
            else min(2 * last, self._longest_s)
        )
        self._last[role] = pause
        return pause
