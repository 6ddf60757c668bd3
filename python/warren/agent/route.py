"""Which manager a worker turns to next: the leader where it is known, else each in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Route"]


class Route:
    """Chooses addresses. `known` gives the APIs of all managers; `own` that of a manager in this
    process, `own_api` the address by which others know it.

    `random` gives numbers in [0, 1): workers that begin together do not all begin with the same
    manager.
    """

    def __init__(
        self,
        known: Callable[[], Sequence[str]],
        own: Callable[[], str],
        own_api: str,
        random: Callable[[], float],
    ) -> None:
        self._known = known
        self._own = own
        self._own_api = own_api
        self._preferred = ""
        self._turn = int(random() * 1024)

    def candidates(self) -> list[str]:
        """Everybody who can be asked, the manager in this process first."""
        own = self._own()
        others = [address for address in self._known() if address != self._own_api]
        return list(dict.fromkeys([own, *others] if own else others))

    def next(self) -> str:
        """Whom to ask now; empty where nobody is known."""
        if self._preferred:
            return self._preferred
        candidates = self.candidates()
        if not candidates:
            return ""
        self._turn += 1
        return candidates[self._turn % len(candidates)]

    def redirect(self, address: str) -> None:
        """A manager says that this one leads."""
        own = self._own()
        self._preferred = own if own and address == self._own_api else address

    def failed(self) -> None:
        """The one that `next` gave does not help."""
        self._preferred = ""

    def welcomed(self, address: str) -> None:
        """This one leads."""
        self._preferred = address
