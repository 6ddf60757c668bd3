"""`cluster update` and `cluster thaw`: what is sent, and what is said of it."""

from __future__ import annotations

import json

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import FakeManager


def test_what_is_said_is_sent_and_the_rest_stays(ctl: Run, manager: FakeManager) -> None:
    done = ctl("cluster", "update", "--lost-freeze=40%", "--node-grace=1m")
    assert (done.code, done.err) == (0, "")
    assert "40%" in done.out
    assert "60 s" in done.out
    assert ctl("cluster", "update", "--node-grace", "10s", "--format=json").code == 0
    both, grace = manager.requests("UpdateCluster")
    assert (both.lost_nodes_freeze_percent, both.node_grace_ms, both.thaw) == (40, 60_000, False)
    assert (grace.lost_nodes_freeze_percent, grace.node_grace_ms) == (0, 10_000)
    assert len(both.request.client) == 16


def test_thaw(ctl: Run, manager: FakeManager) -> None:
    done = ctl("cluster", "thaw", "--format=json")
    shown = json.loads(done.out)
    assert (shown["lost_nodes_freeze_percent"], shown["node_grace_ms"]) == (30, 30_000)
    assert set(shown["overcommit"].values()) == {100}
    (request,) = manager.requests("UpdateCluster")
    assert (request.thaw, request.lost_nodes_freeze_percent, request.node_grace_ms) == (True, 0, 0)


def test_what_makes_no_sense_is_refused_before_anybody_is_asked(
    ctl: Run, manager: FakeManager
) -> None:
    for words in (("update",), ("update", "--lost-freeze=0%"), ("update", "--node-grace=soon")):
        assert ctl("cluster", *words).code == 2
    assert manager.requests("UpdateCluster") == []
