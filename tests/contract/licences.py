"""Licences, duplicate versions and sources of dependencies, by the rules in deny.toml.

cargo-deny reads the same file; this is the part of it that needs no tool but cargo. Python's
dependencies are judged by the metadata that they installed with.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_TOKEN = re.compile(r"\(|\)|/|[A-Za-z0-9.+-]+")

#: Trove classifiers of packages that do not state an SPDX expression yet.
_CLASSIFIED = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
#: What packages wrote in the free-text field that came before it.
_SPELLED = {"3-Clause BSD License": "BSD-3-Clause", "Apache License 2.0": "Apache-2.0"}


def satisfied(expression: str, allowed: Iterable[str]) -> bool:
    """Whether an SPDX expression can be met with the licences in ``allowed``.

    ``/`` means OR, as old crates write it; ``X+`` is met by X. ValueError if it cannot be read.
    """
    tokens = _TOKEN.findall(expression)
    met, rest = _any_of(tokens, set(allowed))
    if rest:
        raise ValueError(f"`{expression}` is no SPDX expression: unexpected `{rest[0]}`")
    return met


def _any_of(tokens: list[str], allowed: set[str]) -> tuple[bool, list[str]]:
    met, tokens = _all_of(tokens, allowed)
    while tokens and tokens[0] in ("OR", "/"):
        other, tokens = _all_of(tokens[1:], allowed)
        met = met or other
    return met, tokens


def _all_of(tokens: list[str], allowed: set[str]) -> tuple[bool, list[str]]:
    met, tokens = _one(tokens, allowed)
    while tokens and tokens[0] == "AND":
        other, tokens = _one(tokens[1:], allowed)
        met = met and other
    return met, tokens


def _one(tokens: list[str], allowed: set[str]) -> tuple[bool, list[str]]:
    if not tokens:
        raise ValueError("an SPDX expression ends too early")
    if tokens[0] == "(":
        met, rest = _any_of(tokens[1:], allowed)
        if not rest or rest[0] != ")":
            raise ValueError("an SPDX expression lacks a closing parenthesis")
        return met, rest[1:]
    name, rest = tokens[0].removesuffix("+"), tokens[1:]
    if rest and rest[0] == "WITH":
        name, rest = f"{name} WITH {rest[1]}", rest[2:]
    return name in allowed, rest


def crates(root: Path, target: str) -> list[dict[str, Any]]:
    """The packages that a build for ``target`` resolves to, as cargo describes them."""
    command = ["cargo", "metadata", "--locked", "--format-version=1", "--all-features"]
    done = subprocess.run(
        [*command, f"--filter-platform={target}"],
        cwd=root,
        capture_output=True,
        check=True,
        timeout=300,
    )
    document = json.loads(done.stdout)
    used = {node["id"] for node in document["resolve"]["nodes"]}
    return [package for package in document["packages"] if package["id"] in used]


def rules(root: Path) -> dict[str, Any]:
    """deny.toml."""
    return tomllib.loads((root / "deny.toml").read_text())


def crate_problems(packages: list[dict[str, Any]], deny: dict[str, Any]) -> Iterator[str]:
    """What ``deny`` forbids among ``packages``, and what it excuses without need."""
    exceptions = {e["crate"]: set(e["allow"]) for e in deny["licenses"].get("exceptions", ())}
    for package in packages:
        allowed = set(deny["licenses"]["allow"]) | exceptions.pop(package["name"], set())
        label = f"{package['name']} {package['version']}"
        if not satisfied(package["license"] or "none", allowed):
            yield f"{label} is under {package['license']}, which deny.toml does not allow"
        source = package["source"]
        if source and not source.startswith("registry+"):
            yield f"{label} comes from {source}, not from the registry"
    for crate in exceptions:
        yield f"deny.toml excepts the licence of {crate}, which nothing needs any more"
    yield from _duplicates(packages, {skip["crate"] for skip in deny["bans"]["skip"]})


def _duplicates(packages: list[dict[str, Any]], skipped: set[str]) -> Iterator[str]:
    versions: dict[str, set[str]] = defaultdict(set)
    for package in packages:
        versions[package["name"]].add(package["version"])
    unused = set(skipped)
    for name, found in sorted(versions.items()):
        left = {version for version in found if f"{name}@{version}" not in skipped}
        if len(left) > 1:
            yield f"{name} is there in versions {', '.join(sorted(left))}: align them, or skip one"
        if len(found) > 1:
            unused -= {f"{name}@{version}" for version in found}
    for crate in sorted(unused):
        yield f"deny.toml skips {crate}, which is no duplicate any more"


def installed_for(name: str) -> dict[str, metadata.Distribution]:
    """The distributions that ``name`` needs at run time, itself not among them."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [name]
    while waiting:
        for line in metadata.distribution(waiting.pop()).requires or ():
            requirement = Requirement(line)
            needed = canonicalize_name(requirement.name)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and needed not in found:
                found[needed] = metadata.distribution(needed)
                waiting.append(needed)
    return found


def licence_of(distribution: metadata.Distribution) -> str:
    """An SPDX expression, from the metadata field of that name or from what older ones have."""
    described = distribution.metadata
    if described["License-Expression"]:
        return str(described["License-Expression"])
    classified = [
        _CLASSIFIED.get(line.rpartition(" :: ")[2], line)
        for line in described.get_all("Classifier") or ()
        if line.startswith("License :: OSI Approved :: ")
    ]
    stated = str(described["License"] or "")
    return " AND ".join(classified) or _SPELLED.get(stated, stated) or "none"
