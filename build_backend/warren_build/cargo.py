"""What cargo builds: the container logger and, in the checkout, the Rust extension."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from . import layout

LOGGER = "warren-log"


def require() -> None:
    """Stops with a sentence if there is no Rust toolchain on the path."""
    if shutil.which("cargo") is None:
        raise SystemExit(
            "warren: cargo is not on the path; building Warren needs a Rust toolchain, see "
            "https://rustup.rs (Debian 12's own is too old)"
        )


def build_logger(profile: str) -> None:
    """Builds the logger and copies it to ``python/warren/bin/warren-log`` (mode 0755)."""
    _cargo(profile, "--package", "warren_log", "--bin", LOGGER)
    built = _output_dir(profile) / LOGGER
    layout.write_if_changed(layout.PACKAGE / "bin" / LOGGER, built.read_bytes(), 0o755)


def build_core(profile: str) -> None:
    """Builds the extension and copies it to ``python/warren/_core*.so`` for this interpreter."""
    _cargo(profile, "--package", "warren_core", "--lib", "--features", "python")
    built = _output_dir(profile) / "libwarren_core.so"
    name = f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    layout.write_if_changed(layout.PACKAGE / name, built.read_bytes(), 0o755)


def _output_dir(profile: str) -> Path:
    return layout.target_dir() / ("debug" if profile == "dev" else profile)


def _cargo(profile: str, *arguments: str) -> None:
    environment = dict(os.environ)
    environment["CARGO_TARGET_DIR"] = os.fspath(layout.target_dir())
    # What maturin sets too: without them PyO3's build script looks for another interpreter, and
    # links against a libpython that a static one does not have.
    environment["PYO3_PYTHON"] = sys.executable
    environment["PYO3_BUILD_EXTENSION_MODULE"] = "1"
    command = ["cargo", "build", "--locked", "--profile", profile, *arguments]
    status = subprocess.run(command, cwd=layout.ROOT, env=environment, check=False).returncode
    if status != 0:
        raise SystemExit(f"warren: `{' '.join(command)}` failed with status {status}; see above")
