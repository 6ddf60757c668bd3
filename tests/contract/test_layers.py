"""The import rules hold, and the check that says so bites."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract import layers

ROOT = Path(__file__).parents[2]


def test_rust_layers_hold() -> None:
    assert layers.rust_violations(ROOT) == []


def test_python_layers_hold() -> None:
    assert layers.python_violations(ROOT) == []


def test_something_was_scanned() -> None:
    assert (ROOT / "rust/warren_core/src/fsm").is_dir()
    assert (ROOT / "python/warren/agent").is_dir()


@pytest.mark.parametrize(
    ("where", "text", "what"),
    [
        ("fsm/apply.rs", "use crate::scheduler::Plan;", "`fsm` may not use `scheduler`"),
        ("fsm/apply.rs", "use super::super::host;", "`fsm` may not use `host`"),
        ("fsm/mod.rs", "use super::{ids, raft::Log};", "`fsm` may not use `raft`"),
        ("fsm/mod.rs", "fn f(x: crate::host::Clock) {}", "`fsm` may not use `host`"),
        ("fsm/mod.rs", "use crate::{\n    ids::{Id, raft},\n    py,\n};", "`fsm` may not use `py`"),
        ("raft/mod.rs", "use crate::fsm;", "`raft` may not use `fsm`"),
        ("raft/mod.rs", "use crate::wal::Wal;", "`raft` may not use `wal`"),
        ("wal/mod.rs", "use crate::raft::Entry;", "`wal` may not use `raft`"),
        ("wal/log.rs", "use crate::sim::disk::SimDisk;", "`wal` may not use `sim`"),
        (
            "scheduler/place.rs",
            "use crate::orchestrator;",
            "`scheduler` may not use `orchestrator`",
        ),
        ("control.rs", "use crate::host::Thread;", "`control` may not use `host`"),
        ("host/mod.rs", "use crate::sim::Disk;", "`host` may not use `sim`"),
        ("sim/mod.rs", "use crate::host::Disk;", "`sim` may not use `host`"),
        ("host/mod.rs", "use crate::py::Core;", "`host` may not use `py`"),
        ("lib.rs", "pub mod util;", "module `util` has no layer"),
    ],
)
def test_a_planted_rust_violation_is_found(
    tmp_path: Path, where: str, text: str, what: str
) -> None:
    _plant(tmp_path / "rust/warren_core/src" / where, text)
    (found,) = layers.rust_violations(tmp_path)
    assert what in found


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("fsm/apply.rs", "use crate::ids::NodeId; use super::state::State;"),
        ("fsm/apply.rs", '// use crate::host;\n/* crate::raft */ const A: &str = "crate::py";'),
        ("fsm/mod.rs", "use crate::{error::Error, ids::{raft, host}};"),
        ("control.rs", "use crate::{fsm, orchestrator, raft, scheduler};"),
        ("host/mod.rs", "use crate::control::Control;"),
        ("wal/tests/crash.rs", "use crate::sim::disk::SimDisk;"),
    ],
)
def test_allowed_rust_is_not_reported(tmp_path: Path, where: str, text: str) -> None:
    _plant(tmp_path / "rust/warren_core/src" / where, text)
    assert layers.rust_violations(tmp_path) == []


@pytest.mark.parametrize(
    ("where", "text", "what"),
    [
        ("cli/service.py", "from warren.manager import api", "may not import `warren.manager`"),
        ("cli/service.py", "import warren.agent.worker", "may not import `warren.agent.worker`"),
        ("cli/service.py", "from .. import agent", "may not import `warren.agent`"),
        ("cli/__init__.py", "from ..manager.api import Api", "may not import `warren.manager.api`"),
        ("cli/main.py", "def f():\n    import warren.manager", "may not import `warren.manager`"),
        ("cli/main.py", "LAZY = 'warren.agent.logs:main'", "may not import `warren.agent.logs`"),
        ("agent/session.py", "from warren.manager import x", "may not import `warren.manager`"),
        ("agent/session.py", "from warren import core", "may not import `warren.core`"),
        ("manager/api.py", "from warren import _core", "only warren.core may import"),
        ("agent/runtime/x.py", "from ..._core import Core", "may import `warren._core`"),
        ("manager/api.py", "import warren._histogram", "may import `warren._histogram`"),
        ("cli/top.py", "from warren._cgroup import parse", "may import `warren._cgroup`"),
    ],
)
def test_a_planted_python_violation_is_found(
    tmp_path: Path, where: str, text: str, what: str
) -> None:
    _plant(tmp_path / "python/warren" / where, text)
    found = layers.python_violations(tmp_path)
    assert found
    assert what in found[0]


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("core.py", "from warren import _core"),
        ("manager/api.py", "from warren.core import Core"),
        ("observe/metrics.py", "from warren._histogram import Histogram"),
        ("agent/probes.py", "from .. import _cgroup"),
        ("cli/main.py", "from warren.pb.v1 import api_pb2"),
        ("daemon.py", "from warren.agent import worker\nfrom warren.manager import api"),
    ],
)
def test_allowed_python_is_not_reported(tmp_path: Path, where: str, text: str) -> None:
    _plant(tmp_path / "python/warren" / where, text)
    assert layers.python_violations(tmp_path) == []


def _plant(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
