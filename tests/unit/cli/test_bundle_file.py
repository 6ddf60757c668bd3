"""The file of `debug bundle`: bounded, redacted, complete or not there."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from warren.cli import bundle_file
from warren.cli.bundle import default_name
from warren.cli.bundle_file import BundleFile
from warren.doctor.redact import Redactor
from warren.errors import WarrenError

SECRET = "known-to-be-secret"
TIME_S = 1_900_000_000


def bundle(path: Path) -> BundleFile:
    return BundleFile(path, Redactor([SECRET]), TIME_S)


def unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        return {name: file.read().decode() for name, file in files.items() if file is not None}


def test_everything_on_its_way_in_is_redacted(tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    with bundle(path) as made:
        made.add_text("a.log", f"said {SECRET}")
        made.add_data("b.json", {"why": f"said {SECRET}"})
        made.note("c.json", f"refused: {SECRET}")
        assert not path.exists()
        size_bytes = made.finish()
    assert size_bytes == path.stat().st_size
    found = unpacked(path)
    assert list(found) == [f"warren-debug/{name}" for name in ("a.log", "b.json", "errors.txt")]
    assert SECRET not in "".join(found.values())
    assert found["warren-debug/errors.txt"] == "c.json: refused: [redacted]\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_too_large_is_cut_or_left_out_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_file, "ENTRY_BYTES_MAX", 100)
    path = tmp_path / "b.tar.gz"
    numbers = "".join(f"{number:04}\n" for number in range(1000))
    with bundle(path) as made:
        made.add_text("first.txt", numbers)
        made.add_text("last.log", numbers, newest=True)
        made.add_data("large.json", {"numbers": numbers})
        made.finish()
    found = unpacked(path)
    assert found["warren-debug/first.txt"] == numbers[:100]
    assert found["warren-debug/last.log"] == numbers[-100:]
    assert "warren-debug/large.json" not in found
    told = found["warren-debug/errors.txt"]
    assert [line.partition(":")[0] for line in told.splitlines()] == [
        "first.txt", "last.log", "large.json",
    ]  # fmt: skip


def test_all_of_it_together_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = bundle_file._RESERVED_BYTES + 1000
    monkeypatch.setattr(bundle_file, "TOTAL_BYTES_MAX", bound)
    path = tmp_path / "b.tar.gz"
    with bundle(path) as made:
        for number in range(10):
            made.add_text(f"{number}.txt", "x" * 300)
            made.note("much", "y" * 200_000)
        made.finish()
    assert sum(map(len, unpacked(path).values())) <= bound


def test_left_before_its_end_nothing_stays(tmp_path: Path) -> None:
    with bundle(tmp_path / "b.tar.gz") as made:
        made.add_text("a.txt", "text")
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


# A process of its own, whose files may have 64 KiB: Python gets EFBIG as it would ENOSPC.
_FULL = """
import random, resource, sys
from pathlib import Path
from warren.cli.bundle_file import BundleFile
from warren.doctor.redact import Redactor
from warren.errors import WarrenError

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
sizes = [int(each) for each in sys.argv[2:]]
try:
    with BundleFile(Path(sys.argv[1]), Redactor(), 0) as made:
        for number, size_bytes in enumerate(sizes):
            made.add_text(f"{number}.txt", random.Random(number).randbytes(size_bytes).hex())
        made.finish()
except WarrenError as error:
    sys.exit(f"{error.code}: {error.message}")
"""


@pytest.mark.parametrize(
    "sizes",
    [
        [1 << 20],  # an entry has no room
        [50_000] * 5,
        [57_000],  # the end has none
        [64_000],
    ],
)
def test_on_a_full_disk_it_says_so_and_leaves_nothing(tmp_path: Path, sizes: list[int]) -> None:
    path = tmp_path / "b.tar.gz"
    done = subprocess.run(
        [sys.executable, "-c", _FULL, path, *map(str, sizes)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(
        rf"failed: cannot write {re.escape(str(path))}(\.part)?: File too large\n", done.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_neither_replaced_nor_followed(tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    victim = tmp_path / "victim"
    victim.write_text("precious")
    os.symlink(victim, tmp_path / "b.tar.gz.part")
    with bundle(path) as made:
        path.write_text("somebody was quicker")
        with pytest.raises(WarrenError, match="exists"):
            made.finish()
    assert victim.read_text() == "precious"
    assert path.read_text() == "somebody was quicker"
    with pytest.raises(WarrenError, match="exists"):
        bundle(path)
    with pytest.raises(WarrenError, match="cannot write"):
        bundle(tmp_path / "nowhere" / "b.tar.gz")


def test_its_name_tells_the_moment() -> None:
    name = default_name(TIME_S)
    assert name.startswith("warren-debug-")
    assert name.endswith("-20300317T174640Z.tar.gz")
