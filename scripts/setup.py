"""Brings ``.venv`` up to date: pinned requirements, then Warren itself.

Run by ``make setup`` and ``make dev`` with the interpreter that ``prerequisites.sh`` chose; needs
nothing but the standard library. What has not changed since the last time is skipped.

``make setup`` installs the wheel that a user would get. ``make dev`` points ``.venv`` at the
checkout and rebuilds in place; from then on ``make setup`` does so too, until ``make clean``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements" / "lock.txt"
STAMP = VENV / "warren-setup.json"

sys.path.insert(0, str(ROOT / "build_backend"))

from warren_build import sdist  # noqa: E402 (the path above has to come first)


def main() -> None:
    """Runs the steps that are due."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="point .venv at the checkout")
    parser.add_argument("--requirements", action="store_true", help="stop before building Warren")
    parser.add_argument("--profile", help="cargo profile of --dev (default: as before, or dev)")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = str(ROOT / "build_backend")
    os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"

    done = read_stamp()
    if not PYTHON.exists() or done.get("interpreter") != interpreter():
        create_venv()
        done = {"interpreter": interpreter()}
    lock = digest([LOCK])
    if done.get("lock") != lock:
        install_requirements()
        done["lock"] = lock
        write_stamp(done)
    if arguments.requirements:
        return
    if arguments.dev or done.get("mode") == "dev":
        # `make bench` goes on with the fast build that it was given.
        done["profile"] = arguments.profile or done.get("profile", "dev")
        install_checkout(done, done["profile"])
    else:
        install_wheel(done)
    write_stamp(done)


def create_venv() -> None:
    """Makes a new environment, in place of one for another interpreter."""
    say(f"creating .venv with Python {sys.version.split()[0]}")
    shutil.rmtree(VENV, ignore_errors=True)
    run(sys.executable, "-m", "venv", VENV)


def install_requirements() -> None:
    """Installs exactly what the lock file names, each file checked against its hash."""
    say("installing the pinned requirements")
    run(PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", LOCK)


def install_wheel(done: dict[str, str]) -> None:
    """Builds the wheel and installs it, unless the same sources are installed already."""
    sources = digest(sorted(sdist.files()))
    if done.get("mode") == "wheel" and done.get("sources") == sources:
        return
    say("building the wheel (a first build takes some minutes)")
    folder = VENV / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    run(PYTHON, "-c", "import sys, warren_build; warren_build.build_wheel(sys.argv[1])", folder)
    (wheel,) = folder.glob("*.whl")
    run(PYTHON, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel)
    done.update(mode="wheel", sources=sources)


def install_checkout(done: dict[str, str], profile: str) -> None:
    """Points ``.venv`` at the checkout if it does not yet, and rebuilds in place."""
    project = digest([ROOT / "pyproject.toml"])
    if done.get("mode") != "dev" or done.get("project") != project:
        say("pointing .venv at the checkout")
        flags = ("--quiet", "--no-deps", "--no-build-isolation", "--config-settings=build=no")
        run(PYTHON, "-m", "pip", "install", *flags, "--editable", ROOT)
        done.update(mode="dev", project=project, sources="")
        write_stamp(done)
    run(PYTHON, "-m", "warren_build", "--profile", profile)


def interpreter() -> str:
    """Which interpreter ``.venv`` is for: its real path and version."""
    return f"{os.path.realpath(sys.executable)} {sys.version}"


def digest(paths: list[Path]) -> str:
    """SHA-256 over names, modes and contents."""
    total = hashlib.sha256()
    for path in paths:
        mode = path.stat().st_mode & 0o777
        total.update(f"\0{path.relative_to(ROOT)}\0{mode:o}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def read_stamp() -> dict[str, str]:
    """What was done so far; nothing if that is not known."""
    try:
        return dict(json.loads(STAMP.read_text()))
    except (OSError, ValueError):
        return {}


def write_stamp(done: dict[str, str]) -> None:
    """Records what was done, so that it is not done again."""
    STAMP.write_text(json.dumps(done, indent=1) + "\n")


def run(*command: object) -> None:
    """Runs a command and stops with a sentence if it fails."""
    words = [str(word) for word in command]
    status = subprocess.run(words, check=False).returncode
    if status != 0:
        raise SystemExit(f"setup: `{' '.join(words)}` failed with status {status}; see above")


def say(what: str) -> None:
    """One line of progress, with the time of day."""
    print(f"setup: {time.strftime('%H:%M:%S')} {what}", flush=True)


if __name__ == "__main__":
    main()
