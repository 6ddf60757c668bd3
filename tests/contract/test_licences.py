"""Dependencies are under licences that we accept, once each, and from the registry."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.contract import licences

ROOT = Path(__file__).parents[2]
DENY = licences.rules(ROOT)

ALLOWED = {"Apache-2.0", "Apache-2.0 WITH LLVM-exception", "MIT", "MPL-2.0", "Unicode-3.0"}


@pytest.mark.parametrize("target", DENY["graph"]["targets"])
def test_rust_dependencies(target: str) -> None:
    packages = licences.crates(ROOT, target)
    assert len(packages) > 20
    assert list(licences.crate_problems(packages, DENY)) == []


def test_python_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    allowed = project["tool"]["warren"]["licences"]
    found = {
        name: licences.licence_of(distribution)
        for name, distribution in licences.installed_for("warren").items()
    }
    assert "grpcio" in found
    refused = {name: said for name, said in found.items() if not licences.satisfied(said, allowed)}
    assert refused == {}


@pytest.mark.parametrize(
    ("expression", "met"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only/MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
        ("(MIT OR Apache-2.0) AND GPL-2.0-only", False),
        ("MIT OR GPL-2.0-only AND GPL-3.0-only", True),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("MPL-2.0+", True),
    ],
)
def test_expressions(expression: str, met: bool) -> None:
    assert licences.satisfied(expression, ALLOWED) is met


@pytest.mark.parametrize("expression", ["", "(MIT", "MIT MIT", "MIT OR", "MIT)"])
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="SPDX expression"):
        licences.satisfied(expression, ALLOWED)


def crate(name: str, version: str = "1.0.0", **changes: Any) -> dict[str, Any]:
    plain = {"name": name, "version": version, "license": "MIT", "source": "registry+somewhere"}
    return plain | changes


@pytest.mark.parametrize(
    ("packages", "what"),
    [
        ([crate("a", license="GPL-3.0-only")], "a 1.0.0 is under GPL-3.0-only"),
        ([crate("a", license=None)], "a 1.0.0 is under None"),
        ([crate("a", source="git+somewhere")], "a 1.0.0 comes from git+somewhere"),
        ([crate("a"), crate("a", "2.0.0")], "a is there in versions 1.0.0, 2.0.0"),
    ],
)
def test_a_planted_dependency_is_found(packages: list[dict[str, Any]], what: str) -> None:
    deny = {"licenses": {"allow": ["MIT"]}, "bans": {"skip": []}}
    (found,) = licences.crate_problems(packages, deny)
    assert what in found


def test_an_excuse_that_nothing_needs_is_found() -> None:
    deny = {
        "licenses": {"allow": ["MIT"], "exceptions": [{"crate": "gone", "allow": ["MPL-2.0"]}]},
        "bans": {"skip": [{"crate": "a@1.0.0"}]},
    }
    found = list(licences.crate_problems([crate("a")], deny))
    assert len(found) == 2
    assert "gone" in found[0]
    assert "a@1.0.0" in found[1]
