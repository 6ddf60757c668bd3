"""Limits that two languages have to agree on."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_worker_reports_no_more_in_a_message_than_a_manager_takes() -> None:
    manager = _number("rust/warren_core/src/control/sessions.rs", r"REPORT_ITEMS_MAX: usize = ")
    worker = _number("python/warren/agent/session.py", r"REPORT_ITEMS_MAX: Final = ")
    assert worker <= manager


def _number(path: str, before: str) -> int:
    found = re.search(before + r"([0-9_]+)", (ROOT / path).read_text())
    assert found, f"{path} has no {before}"
    return int(found[1])
