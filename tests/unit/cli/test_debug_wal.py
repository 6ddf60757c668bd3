"""`warrenctl debug wal` on logs that a real core wrote, whole and damaged."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Run
from warren import core
from warren.datadir import DataDir
from warren.pb.v1 import api_pb2, objects_pb2, session_pb2

NODE_ID = "1f" * 16
SERVICES = 12
FRAME_HEADER_BYTES = 32
SECTOR_BYTES = 512

LONG = 1500


async def _write(data_dir: Path, as_killed: Path) -> None:
    raft_dir = data_dir / "raft"
    raft_dir.mkdir(parents=True)
    running = await core.Core.open(
        raft_dir=raft_dir,
        node_id=NODE_ID,
        node_name="one",
        advertise_addr="",
        segment_bytes=1 << 20,
        log=lambda *_: None,
    )
    await running.call("local", "InitCluster", api_pb2.InitClusterRequest().SerializeToString(), 10)
    async with aclosing(running.stream("local", "Session", _hello())) as session:
        await anext(session)
        await anext(session)
        for number in range(SERVICES):
            request = api_pb2.CreateServiceRequest()
            request.spec.name = f"s{number:02}"
            request.spec.container.image = "app"
            # Longer than two sectors: one lies wholly within its frame, wherever it begins.
            request.spec.container.labels["long"] = "x" * LONG
            await running.call("local", "CreateService", request.SerializeToString(), 10)
        shutil.copytree(data_dir, as_killed)
    await running.close()
    _end_with_a_service(as_killed)


def _hello() -> bytes:
    """A node that could run the image: nobody may create a service without one."""
    image = objects_pb2.NodeImage(
        reference="docker.io/library/app:latest", digest="sha256:" + "a" * 64, size_bytes=1
    )
    capacity = objects_pb2.Resources(cpu_milli=4000, memory_bytes=1 << 32)
    description = objects_pb2.NodeDescription(name="one", capacity=capacity, images=[image])
    hello = session_pb2.Hello(node_id=bytes.fromhex(NODE_ID), description=description)
    return hello.SerializeToString()


def _end_with_a_service(data_dir: Path) -> None:
    """Take back what was written after the last service: the batch of that is the last then."""
    frames: list[core.LogFrame] = []
    core.dump_log(data_dir / "raft/wal", frames.extend)
    last = max(at for at, frame in enumerate(frames) if frame.payload_bytes > LONG)
    commit = next(frame for frame in frames[last:] if frame.kind == "commit")
    end = commit.offset + FRAME_HEADER_BYTES + commit.payload_bytes
    path = segment(data_dir)
    overwrite(path, end, bytes(path.stat().st_size - end))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data directory after a clean end, and what a kill shortly before would have left."""
    root = tmp_path_factory.mktemp("logs")
    asyncio.run(_write(root / "clean", root / "killed"))
    return root / "clean", root / "killed"


@pytest.fixture
def clean(logs: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(logs[0], tmp_path / "clean"))


@pytest.fixture
def killed(logs: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(logs[1], tmp_path / "killed"))


def segment(data_dir: Path) -> Path:
    (path,) = (data_dir / "raft/wal").glob("*.wal")
    return path


def overwrite(path: Path, offset: int, change: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(change)


def flip(path: Path, offset: int) -> None:
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ 0x10]))


def verified(ctl: Run, directory: Path, code: int = 0) -> dict[str, Any]:
    done = ctl("debug", "wal", "verify", str(directory), "--format=json")
    assert done.code == code, done.err
    return dict(json.loads(done.out))


def dumped(ctl: Run, directory: Path, *more: str) -> list[dict[str, Any]]:
    done = ctl("debug", "wal", "dump", str(directory), "--format=json", *more)
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_a_log_is_found_from_each_of_its_directories(ctl: Run, clean: Path) -> None:
    reports = [verified(ctl, clean / below) for below in ("", "raft", "raft/wal")]
    assert reports[0] == reports[1] == reports[2]
    report = reports[0]
    assert report["directory"] == str(clean / "raft/wal")
    assert (report["end"], report["damage"], report["incomplete_batch"]) == ("clean", None, None)
    assert (report["segments"], report["epoch"]) == (1, 1)
    assert report["first_index"] == (report["snapshot_index"] or 0) + 1
    assert report["entries"] == report["last_index"] - report["first_index"] + 1
    assert report["entries"] >= SERVICES
    assert re.fullmatch(r"[0-9a-f]{32}", report["cluster_id"])
    assert re.fullmatch(r"[0-9a-f]{32}", report["data_dir_id"])
    state = report["hard_state"]
    assert (state["term"], state["cut"]) == (report["last_term"], False)
    assert state["voted_for"] == report["member_id"]
    assert int(report["member_id"]) > 0
    assert 0 < state["commit_index"] <= report["last_index"]


def test_nothing_is_written(ctl: Run, killed: Path) -> None:
    flip(segment(killed), 6000)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in killed.rglob("*")}
    content = segment(killed).read_bytes()
    verified(ctl, killed, code=1)
    ctl("debug", "wal", "dump", str(killed))
    assert before == {
        path: (path.stat().st_mtime_ns, path.stat().st_size) for path in killed.rglob("*")
    }
    assert segment(killed).read_bytes() == content


def test_text_says_how_it_ends_and_what_that_means(ctl: Run, clean: Path, killed: Path) -> None:
    done = ctl("debug", "wal", "verify", str(clean))
    assert done.code == 0
    words = " ".join(done.out.split())
    assert "it ends with the mark of a clean shutdown: nothing is missing." in words
    assert re.search(r"holds 1 segment, \d+ batches, \d+ frames", words)
    assert re.search(r"hard state term \d+, voted for member \d+, commit index \d+", words)
    assert max(map(len, done.out.splitlines())) <= 96
    assert "no end mark" in ctl("debug", "wal", "verify", str(killed)).out


def test_damage_names_file_offset_reason_and_what_to_do(ctl: Run, clean: Path) -> None:
    (frame, *_) = dumped(ctl, clean, "--from-index=6")
    path = segment(clean)
    flip(path, frame["offset"] + 40)
    done = ctl("debug", "wal", "verify", str(clean))
    assert done.code == 1
    words = " ".join((done.out + done.err).split())
    assert f"damage {path.name} at offset {frame['offset']}: the checksum is wrong" in words
    assert f"{path} at offset {frame['offset']}" in words
    assert "up to index 5" in words
    assert "restore the data directory from a backup" in words

    done = ctl("debug", "wal", "verify", str(clean), "--format=json")
    report = json.loads(done.out)
    assert done.code == 1
    assert report["end"] == "damaged"
    assert (report["damage"]["file"], report["damage"]["offset"]) == (path.name, frame["offset"])
    assert (report["last_index"], report["cluster_id"]) == (5, None)
    assert json.loads(done.err)["error"]["code"] == "log_damaged"


def test_a_dump_shows_what_is_intact_before_the_damage(ctl: Run, clean: Path) -> None:
    (frame, *_) = dumped(ctl, clean, "--from-index=5")
    flip(segment(clean), frame["offset"] + 40)
    done = ctl("debug", "wal", "dump", str(clean), "--format=json")
    assert done.code == 1
    shown = [json.loads(line) for line in done.out.splitlines()]
    assert max(each["index"] for each in shown if each["kind"] == "entry") == 4
    assert json.loads(done.err)["error"]["code"] == "log_damaged"


def test_a_torn_batch_is_said_and_is_no_failure(ctl: Run, killed: Path) -> None:
    last = [each for each in dumped(ctl, killed) if each["kind"] == "entry"][-1]
    hole = -(-(last["offset"] + 40) // SECTOR_BYTES) * SECTOR_BYTES
    assert hole + SECTOR_BYTES < last["offset"] + last["payload_bytes"]
    overwrite(segment(killed), hole, bytes(SECTOR_BYTES))
    report = verified(ctl, killed)
    assert (report["end"], report["damage"]) == ("torn", None)
    assert report["incomplete_batch"]["file"] == segment(killed).name
    assert report["last_index"] == last["index"] - 1
    assert "nobody was promised" in ctl("debug", "wal", "verify", str(killed)).out


def test_a_cut_batch_is_said_with_what_may_be_missing(ctl: Run, killed: Path) -> None:
    last = [each for each in dumped(ctl, killed) if each["kind"] == "entry"][-1]
    flip(segment(killed), last["offset"] + 40)
    assert verified(ctl, killed)["end"] == "cut"
    words = " ".join(ctl("debug", "wal", "verify", str(killed)).out.split())
    assert "something that was acknowledged may be missing" in words
    assert "the log ends with an incomplete batch" in ctl("debug", "wal", "dump", str(killed)).err


def test_a_log_of_another_format_cannot_be_read(ctl: Run, clean: Path) -> None:
    overwrite(segment(clean), 0, b"not a log")
    report = verified(ctl, clean, code=1)
    assert (report["damage"]["offset"], report["frames"]) == (0, 0)


def test_a_dump_has_a_line_for_each_frame(ctl: Run, clean: Path) -> None:
    frames = dumped(ctl, clean)
    report = verified(ctl, clean)
    assert len(frames) == report["frames"]
    places = [(each["file"], each["offset"]) for each in frames]
    assert places == sorted(places)
    assert [each["index"] for each in frames if each["kind"] == "entry"] == list(
        range(report["first_index"], report["last_index"] + 1)
    )
    commands = [each["command"] for each in frames if each["kind"] == "entry"]
    assert commands.count("create_service") == SERVICES
    assert {"no_op", "create_cluster"} <= set(commands)
    assert sum(each["kind"] in ("commit", "end") for each in frames) == report["batches"]
    states = [each["hard_state"] for each in frames if each["kind"] == "hard_state"]
    assert states[-1] == report["hard_state"]
    assert all(each["payload"] is None for each in frames)

    done = ctl("debug", "wal", "dump", str(clean))
    header, *lines = done.out.splitlines()
    assert header.split() == ["FILE", "OFFSET", "KIND", "INDEX", "TERM", "BYTES", "WHAT"]
    assert len(lines) == len(frames)
    assert "nothing is missing" in done.err


def test_a_dump_can_begin_later_and_end_sooner(ctl: Run, clean: Path) -> None:
    everything = dumped(ctl, clean)
    begin = next(
        at for at, each in enumerate(everything) if (each["kind"], each["index"]) == ("entry", 6)
    )
    assert dumped(ctl, clean, "--from-index=6") == everything[begin:]
    assert dumped(ctl, clean, "--from-index=6", "--limit=3") == everything[begin : begin + 3]
    assert dumped(ctl, clean, "--limit=1") == everything[:1]
    assert dumped(ctl, clean, "--from-index=1000000") == []


def test_payloads_are_shown_when_asked_for(ctl: Run, clean: Path) -> None:
    frames = dumped(ctl, clean, "--payload")
    assert all(len(each["payload"]) == 2 * each["payload_bytes"] for each in frames)
    (text,) = [each["payload"] for each in frames if b"s07".hex() in each["payload"]]
    assert text in ctl("debug", "wal", "dump", str(clean), "--payload").out


def test_yaml_is_a_document_for_each_frame(ctl: Run, clean: Path) -> None:
    done = ctl("debug", "wal", "dump", str(clean), "--format=yaml", "--limit=2")
    assert done.out.count("---\n") == 2


@pytest.mark.parametrize("verb", ["verify", "dump"])
def test_a_directory_without_a_log(ctl: Run, tmp_path: Path, verb: str) -> None:
    (tmp_path / "raft").mkdir()
    (tmp_path / "raft/0000000000000001.wal.old").touch()
    done = ctl("debug", "wal", verb, str(tmp_path))
    assert (done.code, done.out) == (4, "")
    for looked in (tmp_path, tmp_path / "wal", tmp_path / "raft/wal"):
        assert str(looked) in done.err
    assert "0000000000000001.wal" in done.err
    assert ctl("debug", "wal", verb, "/nowhere/at.all").code == 4
    file = tmp_path / "file"
    file.touch()
    assert ctl("debug", "wal", verb, str(file)).code == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not")
def test_a_directory_that_may_not_be_read(ctl: Run, clean: Path) -> None:
    clean.chmod(0o700)
    os.seteuid(65534)
    try:
        done = ctl("debug", "wal", "verify", str(clean))
    finally:
        os.seteuid(0)
    assert done.code == 6
    assert "as root" in done.err


@pytest.fixture
def locked(killed: Path) -> Iterator[DataDir]:
    (killed / "node_id").write_text(NODE_ID)
    directory = DataDir.open(killed)
    yield directory
    directory.close()


def test_a_running_daemon_is_named(ctl: Run, locked: DataDir) -> None:
    assert verified(ctl, locked.path)["writer_pid"] == os.getpid()
    text = ctl("debug", "wal", "verify", str(locked.path)).out
    assert f"warrend (pid {os.getpid()}) is writing to this log" in text
    locked.close()
    assert verified(ctl, locked.path)["writer_pid"] is None


def test_a_sink_that_fails_ends_the_reading(clean: Path) -> None:
    taken: list[list[core.LogFrame]] = []

    def sink(frames: list[core.LogFrame]) -> None:
        taken.append(frames)
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        core.dump_log(clean / "raft/wal", sink)
    assert len(taken) == 1


def test_completion_knows_it(ctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_WARRENCTL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "warrenctl debug wal d")
    monkeypatch.setenv("COMP_CWORD", "3")
    with pytest.raises(SystemExit):
        ctl()
