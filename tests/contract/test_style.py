"""What every text file of the repository keeps to."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LINES_MAX = 600

#: Longer files, each with the reason why it is one thing.
LONGER: dict[str, str] = {}

#: Not written by hand.
GENERATED = {"Cargo.lock", "requirements/lock.txt", "tests/contract/schema.lock"}

MARKERS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|\b(todo|unimplemented)!")
MACHINE_PATHS = re.compile(r"(?<![\w.$}])/(home|root|work|Users)/")
REGISTRY_HOSTS = re.compile(r"pypi\.org|files\.pythonhosted|static\.crates\.io")


def text_files() -> list[Path]:
    """Every text file that git tracks, but this one, which has to name what it forbids."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=30
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    paths = [ROOT / name for name in names if ROOT / name != Path(__file__)]
    return [path for path in paths if path.is_file() and _is_text(path)]


def _is_text(path: Path) -> bool:
    return b"\0" not in path.read_bytes()[:8192]


FILES = text_files() if (ROOT / ".git").exists() else []
pytestmark = pytest.mark.skipif(not FILES, reason="no git checkout: the list of files is git's")


def test_no_file_is_too_long() -> None:
    long = {}
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        lines = path.read_bytes().count(b"\n")
        if lines > LINES_MAX and name not in GENERATED and path.suffix in (".py", ".rs", ".pyx"):
            long[name] = lines
    assert long.keys() == LONGER.keys(), f"say in LONGER why it is one thing, or split it: {long}"


@pytest.mark.parametrize("pattern", [MARKERS, MACHINE_PATHS, REGISTRY_HOSTS])
def test_nothing_unfinished_and_nothing_of_one_machine(pattern: re.Pattern[str]) -> None:
    found = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(ROOT)}:{line}: {match[0]}")
    assert found == []


def test_text_is_tidy() -> None:
    found = []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        # A golden scenario may be about exactly such bytes.
        if name in GENERATED or "testdata" in path.parts:
            continue
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            found.append(f"{name}: no newline at the end")
        if b"\r" in content:
            found.append(f"{name}: carriage return")
        if re.search(rb"[ \t]+\n", content) and path.suffix != ".md":
            found.append(f"{name}: blanks at the end of a line")
    assert found == []


def test_the_patterns_bite() -> None:
    assert MARKERS.search("# TODO: later")
    assert MARKERS.search("todo!()")
    assert MACHINE_PATHS.search('open("/home/me/x")')
    assert not MACHINE_PATHS.search("proto/work/x")
    assert REGISTRY_HOSTS.search("https://pypi.org/simple")
