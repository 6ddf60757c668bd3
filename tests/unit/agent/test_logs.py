"""Reading container logs: tails, times, rotations, several containers at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warren.agent import logs
from warren.pb.v1 import node_pb2

ONE, TWO = "01" * 16, "02" * 16
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def stamped(second: float, text: str, stream: str = "stdout", flag: str = "F") -> str:
    time = (EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
    return f"{time} {stream} {flag} {text}\n"


def write(root: Path, name: str, lines: list[str], container: str = ONE) -> Path:
    directory = root / container
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text("".join(lines))
    return directory / name


async def lines(
    root: Path, *containers: str, tail: int = -1, since_ms: int = 0
) -> list[node_pb2.LogLine]:
    return [
        line
        async for chunk in logs.read(
            root, containers or (ONE,), tail=tail, since_ms=since_ms, follow=False
        )
        for line in chunk.lines
    ]


async def texts(root: Path, *containers: str, tail: int = -1, since_ms: int = 0) -> list[str]:
    found = await lines(root, *containers, tail=tail, since_ms=since_ms)
    return [line.line.decode() for line in found]


async def test_what_a_line_says(tmp_path: Path) -> None:
    write(
        tmp_path,
        "current.log",
        [
            stamped(0.5, "hello world"),
            stamped(1, "", "stderr"),
            stamped(2, "half", "stderr", "P"),
            "2026-01-01T00:00:03Z warren F 7 lines dropped\n",
        ],
    )
    found = await lines(tmp_path)
    base = int(EPOCH.timestamp()) * 1_000_000_000
    assert [line.time_ns - base for line in found] == [500_000_000, 10**9, 2 * 10**9, 3 * 10**9]
    assert [line.line for line in found] == [b"hello world", b"", b"half", b"7 lines dropped"]
    assert [line.stderr for line in found] == [False, True, True, True]
    assert [line.partial for line in found] == [False, False, True, False]
    assert {line.container_id for line in found} == {bytes.fromhex(ONE)}


async def test_a_container_without_a_log_has_no_lines(tmp_path: Path) -> None:
    assert await texts(tmp_path) == []
    (tmp_path / ONE).mkdir()
    assert await texts(tmp_path, tail=5) == []


@pytest.mark.parametrize("tail", [0, 1, 2, 3, 4, 5, 6, 7, 100, -1])
async def test_the_tail_reaches_into_older_files(tmp_path: Path, tail: int) -> None:
    write(tmp_path, "current.log.2", [stamped(0, "a"), stamped(1, "b")])
    write(tmp_path, "current.log.1", [stamped(2, "c"), stamped(3, "d")])
    write(tmp_path, "current.log", [stamped(4, "e"), stamped(5, "f")])
    expected = ["a", "b", "c", "d", "e", "f"]
    assert await texts(tmp_path, tail=tail) == (
        expected if tail < 0 or tail > 6 else expected[6 - tail :]
    )


async def test_since(tmp_path: Path) -> None:
    write(tmp_path, "current.log", [stamped(second, str(second)) for second in range(5)])
    since_ms = int((EPOCH + timedelta(seconds=3)).timestamp() * 1000)
    assert await texts(tmp_path, since_ms=since_ms) == ["3", "4"]


async def test_several_containers_are_merged_by_time(tmp_path: Path) -> None:
    write(tmp_path, "current.log", [stamped(0, "a"), stamped(2, "c")], ONE)
    write(tmp_path, "current.log", [stamped(1, "b"), stamped(3, "d")], TWO)
    assert await texts(tmp_path, ONE, TWO) == ["a", "b", "c", "d"]
    assert sorted(await texts(tmp_path, ONE, TWO, tail=1)) == ["c", "d"]


async def test_torn_and_foreign_lines_do_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path, "current.log", [stamped(0, "a"), "torn li\n", stamped(1, "b")])
    with path.open("ab") as file:
        file.write(b"\xff\xfe\x00 not text\n2026-99-99T00:00:00Z stdout F x\nno end")
    found = await lines(tmp_path)
    assert [line.line for line in found[:3]] == [b"a", b"torn li", b"b"]
    assert len(found) == 5


async def test_chunks_are_bounded(tmp_path: Path) -> None:
    write(tmp_path, "current.log", [stamped(i, "x" * 1000) for i in range(2000)])
    sizes = []
    async for chunk in logs.read(tmp_path, [ONE], tail=-1, since_ms=0, follow=False):
        sizes.append(len(chunk.lines))
        assert chunk.ByteSize() < 300 * 1024
    assert sum(sizes) == 2000
    assert len(sizes) > 5


class Following:
    """A reader that follows, and what it has given so far."""

    def __init__(self, root: Path, tail: int = -1) -> None:
        self._chunks = logs.read(root, [ONE], tail=tail, since_ms=0, follow=True)
        self.seen: list[str] = []

    async def until(self, last: str) -> list[str]:
        """What was given when ``last`` is."""
        async with asyncio.timeout(20):
            while last not in self.seen:
                chunk = await anext(self._chunks)
                self.seen += [line.line.decode() for line in chunk.lines]
        return self.seen

    async def close(self) -> None:
        assert isinstance(self._chunks, AsyncIterator)
        await self._chunks.aclose()  # type: ignore[attr-defined]


def rotate(directory: Path, keep: int = 3) -> None:
    """As the logger does it."""
    for number in range(keep - 1, 0, -1):
        older = directory / f"current.log.{number}"
        newer = directory / (f"current.log.{number - 1}" if number > 1 else "current.log")
        if newer.exists():
            os.replace(newer, older)


def append(directory: Path, *words: str) -> None:
    with (directory / "current.log").open("a") as file:
        file.writelines(stamped(0, word) for word in words)


def available(reader: logs._Reader) -> list[str]:
    """What it has now."""
    return [line.line.decode() for line in reader.available()]


def test_a_log_that_begins_after_its_reader_is_new_from_the_start(tmp_path: Path) -> None:
    reader = logs._Reader(tmp_path / ONE, bytes.fromhex(ONE), 0, 0)
    assert available(reader) == []
    write(tmp_path, "current.log", [stamped(0, "a")])
    assert available(reader) == ["a"]
    assert available(reader) == []
    reader.close()


def test_a_half_line_is_given_once_and_whole(tmp_path: Path) -> None:
    path = write(tmp_path, "current.log", [stamped(0, "a")])
    reader = logs._Reader(tmp_path / ONE, bytes.fromhex(ONE), -1, 0)
    whole = stamped(1, "a long line")
    with path.open("a") as file:
        file.write(whole[:35])
        file.flush()
        assert available(reader) == ["a"]
        file.write(whole[35:])
    assert available(reader) == ["a long line"]
    reader.close()


async def test_following_across_rotations(tmp_path: Path) -> None:
    directory = write(tmp_path, "current.log", [stamped(0, "a")]).parent
    following = Following(tmp_path)
    await following.until("a")
    append(directory, "b")
    rotate(directory)
    append(directory, "c")
    rotate(directory)
    append(directory, "d")
    assert await following.until("d") == ["a", "b", "c", "d"]
    await following.close()


async def test_a_reader_that_was_overtaken_goes_on_with_what_is_there(tmp_path: Path) -> None:
    directory = write(tmp_path, "current.log", [stamped(0, "a")]).parent
    following = Following(tmp_path)
    await following.until("a")
    for word in "bcdef":
        rotate(directory)
        append(directory, word)
    seen = await following.until("f")
    assert seen[-3:] == ["d", "e", "f"]
    assert seen == sorted(set(seen))
    await following.close()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    files=st.lists(st.lists(st.integers(0, 40_000), max_size=5), min_size=1, max_size=4),
    tail=st.integers(-1, 12),
)
async def test_any_tail_of_any_files(tmp_path: Path, files: list[list[int]], tail: int) -> None:
    root = tmp_path / os.urandom(8).hex()
    count = 0
    expected = []
    for number, lengths in enumerate(files):
        name = (
            "current.log" if number == len(files) - 1 else f"current.log.{len(files) - 1 - number}"
        )
        words = [f"{count + index}:{'x' * length}" for index, length in enumerate(lengths)]
        count += len(words)
        expected += words
        write(root, name, [stamped(0, word) for word in words])
    wanted = expected if tail < 0 else expected[len(expected) - min(tail, len(expected)) :]
    assert await texts(root, tail=tail) == wanted


def test_forget(tmp_path: Path) -> None:
    write(tmp_path, "current.log", ["x"])
    logs.forget(tmp_path, ONE)
    assert not (tmp_path / ONE).exists()
    logs.forget(tmp_path, ONE)
