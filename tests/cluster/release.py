"""The release before this one, built from the checkout's own history."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.cluster.host import ROOT

#: The commit that is taken for the release before; the parent of what is checked out, unless named.
PREVIOUS: Final = os.environ.get("WARREN_PREVIOUS", "HEAD~1")
BUILD_TIMEOUT_S: Final = 1800


def previous() -> str | None:
    """The commit's id; None where the checkout has no history."""
    done = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{PREVIOUS}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout.strip() or None


def build(commit: str, into: Path) -> Path:
    """That commit's tree with everything in it that a daemon needs.

    Cargo's target directory is this checkout's, so that what it depends on is not built again.
    """
    tree = into / "release"
    tree.mkdir()
    packed = subprocess.run(
        ["git", "archive", commit], cwd=ROOT, capture_output=True, timeout=60, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(tree)], input=packed.stdout, timeout=60, check=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / "build_backend"),
        "CARGO_TARGET_DIR": os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target")),
    }
    subprocess.run(
        [sys.executable, "-m", "warren_build", "stubs", "cython", "core"],
        cwd=tree,
        env=environment,
        timeout=BUILD_TIMEOUT_S,
        check=True,
    )
    return tree
