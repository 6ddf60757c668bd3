"""Limits that two languages have to agree on."""

from __future__ import annotations

import re
from pathlib import Path

from warren.observe.log_levels import COMPONENTS

ROOT = Path(__file__).parents[2]


def test_a_worker_reports_no_more_in_a_message_than_a_manager_takes() -> None:
    manager = _number("rust/warren_core/src/control/sessions.rs", r"REPORT_ITEMS_MAX: usize = ")
    worker = _number("python/warren/agent/session.py", r"REPORT_ITEMS_MAX: Final = ")
    assert worker <= manager


def _number(path: str, before: str) -> int:
    found = re.search(before + r"([0-9_]+)", (ROOT / path).read_text())
    assert found, f"{path} has no {before}"
    return int(found[1])


def test_whoever_logs_is_a_component_and_the_reverse() -> None:
    python = _all("python/warren", "*.py", r'getLogger\("warren\.([\w.]+)"\)')
    core = _all("rust/warren_core/src", "*.rs", r'(?:\.log\(|LogLine::new\()\s*[\w:]+,\s*"(\w+)"')
    assert {"api", "worker.store"} <= python
    assert {"raft", "wal", "snapshot"} <= core
    # The log itself needs no logger.
    assert sorted(python | core | {"log"}) == list(COMPONENTS)


def _all(folder: str, names: str, pattern: str) -> set[str]:
    texts = (path.read_text() for path in (ROOT / folder).rglob(names))
    return {found for text in texts for found in re.findall(pattern, text)}
