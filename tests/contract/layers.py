"""Who imports whom: reads the sources and reports what the architecture does not allow.

Nothing is executed. Rust is scanned for paths that start at the crate's root, Python is parsed. The
functions take the root of a checkout, so that a test can plant a violation in a copy of one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_BASE = {"error", "identity", "ids", "mutant", "pb"}
#: Never in a release build, so that the tests of any module may use them.
_TEST_TOOLS = {"sim"}
_CORE = {"control", "fsm", "orchestrator", "raft", "scheduler", "wal"}

#: Rust module → modules of the crate that it may name. What is not a key may not exist.
RUST_ALLOWED: dict[str, set[str]] = {
    "error": {"ids", "pb"},
    "identity": {"error", "ids"},
    "ids": {"error", "pb"},
    "mutant": set(),
    "pb": set(),
    "fsm": _BASE,
    "scheduler": _BASE | {"fsm"},
    "orchestrator": _BASE | {"fsm", "scheduler", "words"},
    "raft": {"error", "ids", "mutant", "pb"},
    "wal": {"mutant"},
    "words": set(),
    "control": _BASE | _CORE | {"words"},
    "host": _BASE | _CORE,
    "sim": _BASE | _CORE,
    "py": _BASE | _CORE | {"host"},
}

#: Importing package or module → what nothing in it may import, as prefixes of module names.
PYTHON_FORBIDDEN: dict[str, tuple[str, ...]] = {
    "warren.cli": ("warren.manager", "warren.agent"),
    "warren.agent": ("warren.manager", "warren.core"),
    "warren.dashboards": ("warren.agent", "warren.cli", "warren.core", "warren.manager"),
}

#: Module → the only packages or modules that may import it.
PYTHON_ONLY: dict[str, tuple[str, ...]] = {
    "warren._core": ("warren.core",),
    "warren._histogram": ("warren.observe", "warren.agent"),
    "warren._cgroup": ("warren.observe", "warren.agent"),
}

_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|r#*".*?"#*|"(?:\\.|[^"\\])*"', re.DOTALL)
_CRATE_PATH = re.compile(r"\bcrate\s*::\s*(\{|\w+)")
_SUPER_PATH = re.compile(r"\bsuper((?:\s*::\s*super)*)\s*::\s*(\{|\w+)")
#: A lazily imported module is named by a string.
_LAZY = re.compile(r"warren(\.\w+)+(:\w+)?")
_MODULE = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)\s*[;{]", re.MULTILINE)


def rust_violations(root: Path) -> list[str]:
    """One sentence for each dependency in ``rust/warren_core/src`` that is not allowed."""
    source = root / "rust" / "warren_core" / "src"
    found = []
    for path in sorted(source.rglob("*.rs")):
        module = _rust_module(path.relative_to(source))
        text = _COMMENT_OR_STRING.sub(" ", path.read_text(encoding="utf-8"))
        where = path.relative_to(root)
        if not module:
            found += _undeclared(text, where)
            continue
        allowed = RUST_ALLOWED.get(module[0])
        if allowed is None:
            continue  # lib.rs has to declare it, and is told so
        if "tests" in module:
            allowed = allowed | _TEST_TOOLS
        for name, line in _rust_uses(text, depth=len(module)):
            if name != module[0] and name in RUST_ALLOWED and name not in allowed:
                found.append(f"{where}:{line}: `{module[0]}` may not use `{name}`")
    return found


def _rust_module(relative: Path) -> list[str]:
    """Path of the module in the crate: ``fsm/apply.rs`` is ``[fsm, apply]``, ``lib.rs`` is []."""
    parts = list(relative.with_suffix("").parts)
    if parts[-1] in ("mod", "lib"):
        parts.pop()
    return parts


def _undeclared(text: str, where: Path) -> Iterator[str]:
    for name in _MODULE.findall(text):
        if name not in RUST_ALLOWED:
            yield f"{where}: module `{name}` has no layer; give it one in RUST_ALLOWED"


def _rust_uses(text: str, depth: int) -> Iterator[tuple[str, int]]:
    """Names directly below the crate's root that ``text`` mentions, with their line numbers.

    ``depth`` is the number of modules around the file's items. A ``super`` chain inside an inline
    module may be counted as reaching one level higher than it does: rather one question too many.
    """
    for match in _CRATE_PATH.finditer(text):
        yield from _names(text, match, group=1)
    for match in _SUPER_PATH.finditer(text):
        if 1 + match[1].count("super") >= depth:
            yield from _names(text, match, group=2)


def _names(text: str, match: re.Match[str], group: int) -> Iterator[tuple[str, int]]:
    line = text.count("\n", 0, match.start()) + 1
    if match[group] != "{":
        yield match[group], line
        return
    level, item = 1, True  # `item`: at the start of a path directly inside the outer braces
    for token in re.finditer(r"\w+|\S", text[match.end(group) :]):
        word = token[0]
        if level == 1 and item and word[0].isidentifier():
            yield word, line
        item = level == 1 and word == ","
        level += {"{": 1, "}": -1}.get(word, 0)
        if level == 0:
            return


def python_violations(root: Path) -> list[str]:
    """One sentence for each import in ``python/warren`` that is not allowed."""
    source = root / "python"
    found = []
    for path in sorted((source / "warren").rglob("*.py")):
        relative = path.relative_to(source)
        package = relative.name == "__init__.py"
        module = ".".join(relative.parent.parts if package else relative.with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for name, line in _python_uses(tree, module, package):
            why = _forbidden(module, name)
            if why:
                found.append(f"{path.relative_to(root)}:{line}: {why}")
    return found


def _forbidden(module: str, name: str) -> str | None:
    for importer, prefixes in PYTHON_FORBIDDEN.items():
        if _below(module, importer) and any(_below(name, prefix) for prefix in prefixes):
            return f"`{importer}` may not import `{name}`"
    for target, importers in PYTHON_ONLY.items():
        if _below(name, target) and not any(_below(module, importer) for importer in importers):
            return f"only {' and '.join(importers)} may import `{target}`"
    return None


def _below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def _python_uses(tree: ast.Module, module: str, package: bool) -> Iterator[tuple[str, int]]:
    """Every module that ``tree`` imports, by statement or by ``import_module("…")``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _resolve(node, module, package)
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Constant) and _LAZY.fullmatch(str(node.value)):
            yield str(node.value).partition(":")[0], node.lineno


def _resolve(node: ast.ImportFrom, module: str, package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    drop = node.level - 1 if package else node.level
    parts = parts[: len(parts) - drop]
    return ".".join([*parts, node.module] if node.module else parts)
