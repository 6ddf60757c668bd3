"""The documents name what is there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def direct_dependencies() -> Iterator[str]:
    """Names of every direct dependency, of both languages."""
    for manifest in sorted((ROOT / "rust").glob("*/Cargo.toml")):
        document = tomllib.loads(manifest.read_text())
        for table in ("dependencies", "build-dependencies", "dev-dependencies"):
            yield from document.get(table, {})
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = list(project["project"]["dependencies"])
    for group in project["dependency-groups"].values():
        lines += [line for line in group if isinstance(line, str)]
    yield from (Requirement(line).name for line in lines)


def test_every_direct_dependency_is_accounted_for() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    rows = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    named = set(
        re.findall(r"`([\w-]+)`", "\n".join(row.split("|")[1] for row in rows.splitlines()))
    )
    wanted = set(direct_dependencies())
    assert wanted - named == set(), "give it a line in docs/dependencies.md"
    assert named - wanted == set(), "nothing needs it any more"


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text()
        asked = set(re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE))
        assert asked <= targets, name


def test_links_inside_the_repository_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_oldest_versions_are_the_same_everywhere() -> None:
    rust = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = project["requires-python"].removeprefix(">=")
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    assert f"Rust {rust} or newer" in contributing
    assert f"Python {python} or newer" in contributing
    assert f"PYTHON_OLDEST={python}\n" in (ROOT / "scripts" / "prerequisites.sh").read_text()
