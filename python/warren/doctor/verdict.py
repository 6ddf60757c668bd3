"""What a check says: how it stands, what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["FAILED", "OK", "SKIPPED", "STATUSES", "WARNING", "Readings", "Verdict", "worst"]

OK: Final = "ok"
WARNING: Final = "warning"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"
STATUSES: Final = (OK, WARNING, FAILED, SKIPPED)

Readings = Mapping[str, int | float | str | bool | None]
"""What was found, as `--format json` has it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one check. `advice` is empty exactly where there is nothing to do.

    `readings`: what `found` says, for programs; the unit stands last in a name.
    """

    name: str
    status: str
    found: str
    advice: str = ""
    readings: Readings = field(default_factory=dict)


def worst(verdicts: list[Verdict]) -> str:
    """The worst status of them; `ok` where all are, or were skipped."""
    statuses = {each.status for each in verdicts}
    return next((status for status in (FAILED, WARNING) if status in statuses), OK)
