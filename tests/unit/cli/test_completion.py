"""The completion scripts are what the shells themselves take for well-formed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(ctl: Run, shell: str) -> None:
    done = ctl("completion", shell)
    assert done.code == 0
    assert "_WARRENCTL_COMPLETE" in done.out
    assert "warrenctl" in done.out
    assert "%(" not in done.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_accepts_its_script(ctl: Run, shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(ctl("completion", shell).out)
    done = subprocess.run(
        [shell, "-n", str(script)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_a_flag(ctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_WARRENCTL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "warrenctl service create --restart o")
    monkeypatch.setenv("COMP_CWORD", "4")
    with pytest.raises(SystemExit):
        ctl()
