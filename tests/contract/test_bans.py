"""Clocks, randomness, files and sockets stay at the edges of the Rust core."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
CRATE = ROOT / "rust" / "warren_core"

#: Files and directories that may lift the bans, each as a whole and with a reason.
MAY_LIFT = (
    "build.rs",
    "examples/",
    "src/host/",
    "src/py/",
    "src/sim/",
    "src/wal/disk.rs",
    "src/wal/tests/",
    "tests/",
)
_LIFT = re.compile(r"#(!?)\[(?:allow|expect)\(([^\]]*?clippy::disallowed_[^\]]*?)\)\]", re.DOTALL)


def lifted(crate: Path) -> list[str]:
    """What is wrong with the places in ``crate`` that lift a ban."""
    found = []
    for path in sorted(crate.rglob("*.rs")):
        name = path.relative_to(crate).as_posix()
        for match in _LIFT.finditer(path.read_text(encoding="utf-8")):
            if not name.startswith(MAY_LIFT):
                found.append(f"{name}: may not lift {match[2].strip()}; move it to host/")
            elif "reason" not in match[2]:
                found.append(f'{name}: say why: #![allow({match[2].strip()}, reason = "…")]')
    return found


def test_only_the_edges_lift_the_bans() -> None:
    assert lifted(CRATE) == []


def test_a_planted_exception_is_found(tmp_path: Path) -> None:
    fsm = tmp_path / "src" / "fsm"
    fsm.mkdir(parents=True)
    lift = "#![allow(clippy::disallowed_methods, clippy::disallowed_types{})]\n"
    (fsm / "apply.rs").write_text(lift.format(', reason = "in a hurry"'))
    assert "src/fsm/apply.rs: may not lift" in lifted(tmp_path)[0]
    host = tmp_path / "src" / "host"
    host.mkdir()
    (fsm / "apply.rs").unlink()
    (host / "clock.rs").write_text(lift.format(""))
    assert "src/host/clock.rs: say why" in lifted(tmp_path)[0]
    (host / "clock.rs").write_text(lift.format(', reason = "the real clock"'))
    assert lifted(tmp_path) == []


def test_clippy_enforces_the_bans(tmp_path: Path) -> None:
    """A crate of one file breaks each ban on the standard library, and is told so for each."""
    bans = tomllib.loads((CRATE / "clippy.toml").read_text())
    methods = [ban["path"] for ban in bans["disallowed-methods"] if ban["path"].startswith("std")]
    types = [ban["path"] for ban in bans["disallowed-types"] if ban["path"].startswith("std")]
    uses = [f"    let _ = {path};" for path in methods if not _generic(path)]
    uses += [f"    let _: Option<{path}> = None;" for path in types]
    uses += [f"    let _ = {_called(path)};" for path in methods if _generic(path)]
    (tmp_path / "Cargo.toml").write_text(
        '[package]\nname = "planted"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n'
    )
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "lib.rs").write_text("pub fn f() {\n" + "\n".join(uses) + "\n}\n")
    (tmp_path / "clippy.toml").write_text(
        "\n".join(
            f"disallowed-{kind} = [" + ", ".join(f'"{path}"' for path in paths) + "]"
            for kind, paths in (("methods", methods), ("types", types))
        )
    )
    done = subprocess.run(
        ["cargo", "clippy", "--offline", "--quiet", "--target-dir", str(tmp_path / "target")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    silent = [path for path in methods + types if f"`{path}`" not in done.stderr]
    assert silent == [], done.stderr


def _generic(path: str) -> bool:
    """Whether naming the function alone leaves a type parameter open."""
    return path.startswith("std::fs") or path in ("std::thread::spawn", *_GENERIC_ENV)


_GENERIC_ENV = ("std::env::var", "std::env::var_os")


def _called(path: str) -> str:
    arguments = {"copy": '"a", "b"', "rename": '"a", "b"', "write": '"a", b"b"', "spawn": "|| ()"}
    return f"{path}({arguments.get(path.rpartition('::')[2], chr(34) + 'a' + chr(34))})"
