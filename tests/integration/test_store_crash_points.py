"""Power is lost at any moment: what the worker's store acknowledged is there afterwards.

A real store is written under strace; from its system calls follows what each crash could have left
on the disk. Every such disk is opened by the real store again: it has to hold what was
acknowledged, and beyond that at most the one round that had begun, wholly or not at all.

The seed and how many disks there were are printed. `WARREN_TEST_SEED` replays it;
`WARREN_TEST_POINTS` sets about how many crashes there are of a store that is healthy.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from tests.support.crash_disk import (
    Disk,
    Event,
    Image,
    Kind,
    Mark,
    Names,
    Resize,
    Sync,
    SyncNames,
    Write,
    lay_out,
)
from tests.support.crash_trace import Recorder
from tests.support.store_rounds import Life, after, nothing, round_of
from tests.support.strace import traced
from warren.agent.store import Changes, Meta, Store, Stored
from warren.datadir import DataDir

SEED = int(os.environ.get("WARREN_TEST_SEED") or int.from_bytes(os.urandom(4)))
POINTS = int(os.environ.get("WARREN_TEST_POINTS", "1200"))
DRAWS = 8  # different outcomes of a crash where names or lengths are being changed
CRASHED_TWICE = 12
PAGE_BYTES = 4096
CHECKPOINT_PAGES = 1000  # SQLite's own threshold
ROOT = Path(__file__).parents[2]
DATA_DIR = "var/warren"
STORE = f"{DATA_DIR}/worker.db"
NODE_ID = f"{DATA_DIR}/node_id"

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
    pytest.mark.timeout(180 + POINTS),
]


@dataclass(frozen=True)
class Point:
    """A crash after so many events; `draw` tells apart those that differ by chance alone."""

    happened: int
    kind: Kind
    draw: int = 0


@dataclass(frozen=True)
class Begun:
    """A disk, and what is going to be lived on it; the lives' directory is set by `histories`."""

    image: Image
    lives: Sequence[Life]
    healthy: bool = True


@dataclass(frozen=True)
class History:
    """What happened to a disk that began as `image`, and what a store held after each round.

    `states[0]`: before the first. `healthy`: the store need not be set aside.
    """

    data_dir: str
    image: Image
    events: Sequence[Event]
    states: Sequence[Stored]
    healthy: bool = True

    def lives(self) -> Iterator[range]:
        """For each life, how many events have happened by then, from its first to its last."""
        begins = [
            happened
            for happened, event in enumerate(self.events, start=1)
            if event == Mark(f"lives {self.data_dir}")
        ]
        ends = [*begins[1:], len(self.events) + 1]
        return itertools.starmap(range, zip(begins, ends, strict=True))


@dataclass(frozen=True)
class Recovered:
    """A disk after a crash, and which of the states it turned out to hold."""

    image: Image
    state: int


@pytest.fixture
def memory_dir() -> Iterator[Path]:
    """Where fsync costs nothing."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="wp", dir=shared) as directory:
        yield Path(directory)


def histories(begun: Sequence[Begun], work: Path) -> list[History]:
    """What becomes of each disk, all in one run of the tracer."""
    roots = [work / f"disk{number}" for number in range(len(begun))]
    lives = []
    for root, disk in zip(roots, begun, strict=True):
        lay_out(disk.image, root)
        lives += [
            msgspec.structs.replace(life, data_dir=f"{root}/{DATA_DIR}") for life in disk.lives
        ]
    marks = work / "marks"
    command = [sys.executable, "-m", "tests.support.store_rounds", str(marks)]
    calls = traced(
        [*command, msgspec.json.encode(lives).decode()],
        work / "strace",
        cwd=ROOT,
    )
    (work / "strace").unlink()
    return [
        History(
            data_dir=f"{root}/{DATA_DIR}",
            image=disk.image,
            events=Recorder(root, marks, disk.image).events(calls),
            states=states_of(disk.lives),
            healthy=disk.healthy,
        )
        for root, disk in zip(roots, begun, strict=True)
    ]


def states_of(lives: Sequence[Life]) -> list[Stored]:
    state = nothing()
    for number in range(lives[0].first):
        state = after(state, round_of(lives[0].seed, number))
    states = [state]
    for number in range(lives[0].first, lives[-1].last):
        states.append(after(states[-1], round_of(lives[0].seed, number)))
    return states


def points_of(history: History, count: int, rng: random.Random) -> list[Point]:
    """About `count` of each kind, the same of every life; more where names or lengths change."""
    chosen = []
    lives = list(history.lives())
    for life in lives:
        where: dict[Kind, list[int]] = {kind: [] for kind in Kind}
        for happened in life:
            event = history.events[happened - 1]
            for kind in kinds_at(event):
                where[kind].append(happened)
            if isinstance(event, Names | Resize):
                chosen += [Point(happened, Kind.REORDERED, draw) for draw in range(DRAWS)]
        for kind, anywhere in where.items():
            some = rng.sample(anywhere, min(count // len(lives) + 1, len(anywhere)))
            chosen += [Point(happened, kind) for happened in some]
    return sorted(chosen, key=lambda point: point.happened)


def kinds_at(event: Event) -> list[Kind]:
    """The crashes after the event that leave something else than one before it."""
    match event:
        case Write():
            torn = [Kind.TORN] if len(event.sectors()) > 1 else []
            return [Kind.CLEAN, Kind.REORDERED, *torn]
        case Names() | Resize():
            return [Kind.CLEAN, Kind.REORDERED]
        case Sync() | SyncNames() | Mark():
            return [Kind.UNSYNCED]


class Survey:
    """Crashes histories and counts. `crashed`: where a crashed disk is laid out."""

    def __init__(self, seed: int, crashed: Path) -> None:
        self.counts: Counter[Kind] = Counter()
        self._seed = seed
        self._crashed = crashed

    def crash(self, history: History, points: Iterable[Point]) -> list[Recovered]:
        """At each of the points, which are in order."""
        disk = Disk(history.image)
        begun = acknowledged = happened = 0
        recovered = []
        node_id = disk_at_the_end(history).after(Kind.CLEAN, random.Random(0))[NODE_ID]
        for point in points:
            for event in history.events[happened : point.happened]:
                disk.happen(event)
                begun += event == Mark(f"begin {history.data_dir}")
                acknowledged += event == Mark(f"acknowledged {history.data_dir}")
            happened = point.happened
            rng = random.Random(f"{self._seed}:{point}")
            image = disk.after(point.kind, rng)
            where = f"seed {self._seed}, {point} {history.events[happened - 1]!r:.100}"
            state = self._recover(history, image, range(acknowledged, begun + 1), where)
            assert image.get(NODE_ID) == node_id or not acknowledged, f"{where}: another node"
            recovered.append(Recovered(image, state))
            self.counts[point.kind] += 1
        return recovered

    def tell(self, when: str) -> None:
        counts = ", ".join(f"{self.counts[kind]} {kind}" for kind in Kind)
        print(f"seed {self._seed}, crashed {when}: {self.counts.total()} disks ({counts})")

    def _recover(self, history: History, image: Image, allowed: range, where: str) -> int:
        """Open what is left; it holds one of the allowed states, and can be written again."""
        lay_out(image, self._crashed)
        directory = DataDir.open(self._crashed / DATA_DIR)
        try:
            path = directory.store_file
            with closing(Store.open(path)) as store:
                found = store.load()
                states = [state for state in allowed if history.states[state] == found]
                assert states, f"{where}: {told(history.states, found)}, not {allowed}"
                store.write(Changes(containers={}, specs={}, meta=Meta(revision=b"later")))
            with closing(Store.open(path)) as store:
                found.meta = Meta(revision=b"later")
                assert store.load() == found, f"{where}: what was written later is not there"
            set_aside = path.with_name("worker.db.damaged").exists()
            assert not (set_aside and history.healthy), f"{where}: taken for damaged"
        finally:
            directory.close()
        return states[0]


def told(states: Sequence[Stored], found: Stored) -> str:
    """What it is that was found."""
    if found in states:
        return f"it holds round {states.index(found)}"
    return f"it holds a mixture that never was, with the mark of round {found.meta.fence.term}"


@pytest.fixture
def long_history(memory_dir: Path) -> History:
    """Checkpoints, logs begun anew, sudden deaths, reopened and newly made files."""
    long = rounds_of_pages(22, CHECKPOINT_PAGES)
    closes_after = {1: False, 10: True, 11: False, 20: False, 22: True, long: True, long + 5: False}
    lives = [
        Life("", SEED, first, last, closes)
        for first, (last, closes) in zip([0, *closes_after], closes_after.items(), strict=False)
    ]
    (history,) = histories([Begun({}, lives)], memory_dir)
    return history


def rounds_of_pages(first: int, pages: int) -> int:
    """Where rounds from `first` on end that write more than so many pages."""
    while pages >= 0:
        specs = [spec for spec in round_of(SEED, first).specs.values() if spec is not None]
        pages -= sum(spec.ByteSize() // PAGE_BYTES for spec in specs)
        first += 1
    return first


def begins_anew(history: History) -> bool:
    """Whether some file got its first bytes more than once."""
    first = Counter(
        event.inode
        for event in history.events
        if isinstance(event, Write) and event.offset == 0 and len(event.data) == 32
    )
    return max(first.values()) > 1


def disk_at_the_end(history: History) -> Disk:
    disk = Disk(history.image)
    for event in history.events:
        disk.happen(event)
    return disk


def test_no_crash_loses_what_was_acknowledged(long_history: History, memory_dir: Path) -> None:
    assert begins_anew(long_history), "the log was checkpointed and overwritten in the midst"
    rng = random.Random(SEED)
    survey = Survey(SEED, memory_dir / "crashed")
    points = points_of(long_history, POINTS // len(Kind), rng)
    once = survey.crash(long_history, points)
    survey.tell("once")

    survey = Survey(SEED, memory_dir / "crashed")
    chosen = rng.sample(once, CRASHED_TWICE)
    begun = [
        Begun(found.image, [Life("", SEED, found.state, found.state + 2, bool(number % 2))])
        for number, found in enumerate(chosen)
    ]
    for history in histories(begun, memory_dir):
        survey.crash(history, points_of(history, POINTS // 3 // len(Kind) // CRASHED_TWICE, rng))
    survey.tell("again in the midst of recovery")


def test_a_damaged_store_is_set_aside_durably(memory_dir: Path) -> None:
    """Whatever of the damaged files a crash leaves, none of it gets into the new store."""
    (healthy,) = histories([Begun({}, [Life("", SEED, 0, 9, closes=False)])], memory_dir)
    image = disk_at_the_end(healthy).after(Kind.CLEAN, random.Random(SEED))
    log = image[f"{STORE}-wal"]
    assert log
    damaged = image | {STORE: random.Random(SEED).randbytes(9000), f"{STORE}-wal": log[:32]}
    lives = [Life("", SEED + 1, 0, 3, closes=False), Life("", SEED + 1, 3, 5, closes=True)]
    (history,) = histories([Begun(damaged, lives, healthy=False)], memory_dir)
    survey = Survey(SEED, memory_dir / "crashed")
    survey.crash(history, points_of(history, POINTS // 6 // len(Kind), random.Random(SEED)))
    survey.tell("while a damaged store is set aside")


@pytest.mark.parametrize("forgotten", [Sync, SyncNames])
def test_a_sync_that_is_missing_would_be_found(memory_dir: Path, forgotten: type[Event]) -> None:
    """The same calls without those to fsync: the survey is not blind."""
    (history,) = histories([Begun({}, [Life("", SEED, 0, 9, closes=True)])], memory_dir)
    # What a daemon needs to start at all is synced before the store is written.
    start = history.events.index(Mark(f"begin {history.data_dir}")) if forgotten is Sync else 0
    events = [
        event
        for happened, event in enumerate(history.events)
        if happened < start or not isinstance(event, forgotten)
    ]
    survey = Survey(SEED, memory_dir / "crashed")
    points = [Point(happened, Kind.UNSYNCED) for happened in range(1, len(events) + 1)]
    with pytest.raises(AssertionError, match=r"it holds round 0, not range\(1, 2\)"):
        survey.crash(replace(history, events=events), points)
