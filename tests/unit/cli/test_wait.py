"""Waiting goes on through what passes, and says what has been done where it ends with an error."""

from __future__ import annotations

from collections import deque

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import FakeManager, RefusalError

CREATE = ("service", "create", "web", "--image=tiny:1")


def test_a_majority_that_is_missing_for_a_moment(ctl: Run, manager: FakeManager) -> None:
    manager.refuse["WatchService"] = deque([RefusalError("no_quorum", "b and c are missing")])
    done = ctl(*CREATE)
    assert done.code == 0, done.err
    assert "b and c are missing" in done.err
    assert done.out == "01" * 16 + "\n"


def test_a_majority_that_stays_away_is_what_is_said(ctl: Run, manager: FakeManager) -> None:
    manager.refuse["WatchService"] = deque([RefusalError("no_quorum", "b is missing")] * 100)
    done = ctl(*CREATE, "--timeout=2s")
    assert done.code == 1
    assert "(b is missing); the service stays" in done.err.splitlines()[-1]


@pytest.mark.parametrize(("code", "exit_code"), [("denied", 6), ("worker_only", 3)])
def test_a_wait_that_fails_says_that_the_service_stays(
    ctl: Run, manager: FakeManager, code: str, exit_code: int
) -> None:
    manager.refuse["WatchService"] = deque([RefusalError(code, "not here")])
    done = ctl(*CREATE)
    assert done.code == exit_code
    assert "not here; the service stays" in done.complaint
    assert "warrenctl service ps web" in done.complaint


@pytest.mark.parametrize("code", ["worker_only", "member_removed"])
def test_a_manager_that_is_demoted_leaves_the_wait_to_the_others(
    ctl: Run, manager: FakeManager, others: list[FakeManager], code: str
) -> None:
    manager.refuse["WatchService"] = deque([RefusalError(code, "no manager any more")])
    others[0].services = manager.services
    done = ctl("--host", f"{manager.host},{others[0].host}", *CREATE)
    assert done.code == 0, done.err
    assert len(others[0].requests("WatchService")) == 1


def test_a_new_manager_costs_the_majority_for_a_moment(ctl: Run, manager: FakeManager) -> None:
    manager.refuse["ListMembers"] = deque([RefusalError("no_quorum", "b is missing")])
    done = ctl("node", "promote", "a")
    assert done.code == 0, done.err
    assert done.err == "waiting for the manager: b is missing\n"


def test_a_change_of_a_node_is_told_where_waiting_fails(ctl: Run, manager: FakeManager) -> None:
    manager.refuse["ListMembers"] = deque([RefusalError("denied", "not for you")])
    done = ctl("node", "demote", "a")
    assert done.code == 6
    assert done.complaint == (
        "warrenctl: node a is to manage no more, but waiting for the others has failed: "
        "not for you; look again with: warrenctl cluster members\n"
    )
