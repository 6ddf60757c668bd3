"""What docs/clusters.md tells operators to type about certificates makes ones that daemons take."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from warren.tls import load
from warren.tls_files import Files

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"


def recipe() -> str:
    page = PAGE.read_text(encoding="utf-8")
    block = re.search(r"<!-- certificates:.*?```sh\n(.*?)```", page, re.DOTALL)
    assert block, "the page has a block of commands"
    return block[1]


def test_the_certificates_of_the_page_are_accepted(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-eu", "-c", recipe()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, role in (("m1", "manager"), ("w1", "worker"), ("ann", "client")):
        ca, cert, key = (tmp_path / file for file in ("ca.pem", f"{name}.pem", f"{name}-key.pem"))
        identity = load(Files(ca, cert, key)).identity
        assert (identity.trust_domain, identity.role) == ("prod.example", role)
