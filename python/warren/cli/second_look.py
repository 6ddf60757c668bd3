"""Looking at the cluster, and where that gets no answer, at what one manager has of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from warren.errors import WarrenError

if TYPE_CHECKING:
    from warren.cli.client import Client

__all__ = ["look"]

T = TypeVar("T")

# What is left of it is for the second look: 4 s of 10 for the first.
_FIRST_SHARE: Final = 0.4
# With these the answer of one manager is better than none.
_LEADERLESS: Final = frozenset(
    {"no_answer", "no_quorum", "no_leader", "not_leader", "outcome_unknown"}
)


def look(client: Client, ask: Callable[[str], T]) -> T:
    """What `ask("")` gives, by the client's deadline.

    Where no majority answers in its share of the time, `ask(why)` is asked anew with `--stale`.
    Raises WarrenError where no manager answers at all.
    """
    from warren.cli.client import Deadline

    settings, whole = client.settings, client.deadline
    if settings.stale:
        return ask("")
    client.deadline = Deadline(_FIRST_SHARE * whole.remaining_s())
    try:
        return ask("")
    except WarrenError as error:
        if error.code not in _LEADERLESS:
            raise
        why = error.message
    finally:
        client.deadline = whole
    settings.stale = True
    try:
        return ask(why)
    finally:
        settings.stale = False
