"""`warrenctl debug log-level`, and the name that each call has."""

from __future__ import annotations

import json
import re
from collections import deque

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import FakeManager, RefusalError
from warren.agent import log_levels
from warren.errors import WarrenError
from warren.observe.log_levels import LevelRow, Levels
from warren.pb.v1 import node_pb2


class Served:
    """The levels of a daemon, served as the node's service does."""

    def __init__(self) -> None:
        self.levels = Levels("info", lambda: 5.0)

    @property
    def configured_level(self) -> str:
        return self.levels.configured

    def level_rows(self) -> list[LevelRow]:
        return self.levels.rows()

    def set_component_level(self, component: str, level: str, for_s: float = 0.0) -> None:
        self.levels.set(component, level, for_s)

    def get(self, _: node_pb2.GetLogLevelsRequest) -> node_pb2.GetLogLevelsResponse:
        return log_levels.tell(self)

    def set(self, request: node_pb2.SetLogLevelRequest) -> node_pb2.SetLogLevelResponse:
        try:
            return log_levels.change(self, request)
        except WarrenError as error:
            raise RefusalError(error.code, error.message) from None


@pytest.fixture
def served(manager: FakeManager, monkeypatch: pytest.MonkeyPatch) -> Served:
    made = Served()
    monkeypatch.setattr(manager, "GetLogLevels", made.get, raising=False)
    monkeypatch.setattr(manager, "SetLogLevel", made.set, raising=False)
    return made


def test_levels_are_shown_changed_and_taken_back(ctl: Run, served: Served) -> None:
    done = ctl("debug", "log-level")
    assert done.out.splitlines()[:2] == [
        "COMPONENT     LEVEL",
        "all           info   as configured",
    ]
    assert "\nworker.store  info\n" in done.out
    done = ctl("debug", "log-level", "raft", "debug", "--for", "10m")
    assert "raft          debug  changed, for 600 s more; configured: info" in done.out.splitlines()
    done = ctl("debug", "log-level", "api", "warn")
    assert "api           warn   changed, until changed or restarted; configured: info" in done.out
    assert served.levels.own() == {"raft": "debug", "api": "warn"}
    done = ctl("debug", "log-level", "raft", "default")
    assert done.out.splitlines()[1:] == ["raft          info"]
    ctl("debug", "log-level", "all", "default")
    assert served.levels.own() == {}


def test_levels_as_json(ctl: Run, served: Served) -> None:
    done = ctl("debug", "log-level", "raft", "debug", "--for=90s", "--format=json")
    assert json.loads(done.out) == {
        "configured": "info",
        "levels": [
            {"component": "raft", "level": "debug", "changed": True, "remaining_ms": 90_000}
        ],
    }
    shown = json.loads(ctl("debug", "log-level", "--format=json").out)["levels"]
    assert shown[0] == {"component": "all", "level": "info", "changed": False, "remaining_ms": None}
    assert len(shown) == len(served.levels.rows())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rafft"], "no component 'rafft' logs; there are all, api, "),
        (["rafft", "debug"], "no component 'rafft' logs; there are all, api, "),
        (["raft", "loud"], "no level 'loud'; there are default, debug, info, "),
        (["raft", "--for", "1m"], "--for goes with a level"),
        (["raft", "default", "--for", "1m"], "--for goes with a level"),
        (["raft", "debug", "--for", "0s"], "--for 0 would change nothing"),
        (["raft", "debug", "--for", "soon"], "'soon' is no duration"),
    ],
)
def test_what_cannot_be_is_refused(
    ctl: Run, served: Served, arguments: list[str], says: str
) -> None:
    done = ctl("debug", "log-level", *arguments)
    assert done.code == 2
    assert says in done.err
    assert served.levels.own() == {}


def test_levels_are_those_of_this_host(ctl: Run) -> None:
    done = ctl("debug", "log-level", "--host", "10.0.0.1:2377")
    assert done.code == 2
    assert "unix://" in done.err


def test_each_call_has_a_name_and_keeps_it_when_tried_again(ctl: Run, manager: FakeManager) -> None:
    manager.refuse["CreateService"] = deque([RefusalError("unavailable", "soon")])
    done = ctl("service", "create", "web", "--image=tiny:1", "--detach")
    assert done.code == 0
    first, second = (name for method, name in manager.named if method == "CreateService")
    request = manager.requests("CreateService")[0].request
    assert first == second == f"{request.client.hex()}-{request.sequence}"
    reads = [name for method, name in manager.named if method != "CreateService"]
    assert all(re.fullmatch(r"[0-9a-f]{32}-r\d+", name) for name in reads)
    assert len({*reads, first}) == len(reads) + 1


def test_a_request_that_was_never_sent_has_no_name(ctl: Run) -> None:
    done = ctl("node", "ls", "--host", "unix:///nowhere/at.all", "--format=json")
    assert json.loads(done.err)["error"].keys() == {"code", "message"}
