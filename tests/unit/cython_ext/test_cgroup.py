"""The cgroup and proc parsers against naive twins, on valid, damaged and random bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren import _cgroup

U64_MAX = 2**64 - 1
u64 = st.integers(0, U64_MAX)

SINGLE: list[tuple[Callable[[bytes], int | None], str]] = [
    (_cgroup.cpu_usage_ns_v1, "cpuacct.usage"),
    (_cgroup.memory_usage_bytes_v1, "memory.usage_in_bytes"),
    (_cgroup.memory_usage_bytes_v2, "memory.current"),
    (_cgroup.memory_limit_bytes_v1, "memory.limit_in_bytes"),
    (_cgroup.memory_limit_bytes_v2, "memory.max"),
    (_cgroup.pids_current, "pids.current"),
    (_cgroup.pids_max, "pids.max"),
]
KEYED: list[tuple[Callable[[bytes], int], str, str]] = [
    (_cgroup.cpu_usage_ns_v2, "cpu.stat", "usage_usec"),
    (_cgroup.memory_inactive_file_bytes_v1, "memory.stat", "total_inactive_file"),
    (_cgroup.memory_inactive_file_bytes_v2, "memory.stat", "inactive_file"),
    (_cgroup.oom_kills_v1, "memory.oom_control", "oom_kill"),
    (_cgroup.oom_kills_v2, "memory.events", "oom_kill"),
]
EVERY = [
    *(parse for parse, _ in SINGLE),
    *(parse for parse, _, _ in KEYED),
    _cgroup.mem_total_bytes,
    _cgroup.proc_stat,
    _cgroup.io_bytes_v1,
    _cgroup.io_bytes_v2,
]

MEMORY_EVENTS = b"low 0\nhigh 3\nmax 41\noom 2\noom_kill 7\noom_group_kill 1\n"
OOM_CONTROL = b"oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"
CPU_STAT = b"usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnr_periods 0\n"
MEMORY_STAT_V1 = b"cache 4096\ninactive_file 11\ntotal_cache 8192\ntotal_inactive_file 22\n"
MEMINFO = b"MemTotal:       24576000 kB\nMemFree:          102400 kB\n"


def twin_single(data: bytes) -> int | None:
    found = re.fullmatch(rb"([0-9]+)\n?", data)
    return int(found[1]) if found and int(found[1]) <= U64_MAX else None


def twin_keyed(data: bytes, key: str) -> int | None:
    for line in data.split(b"\n"):
        if line.startswith(key.encode() + b" "):
            value = line[len(key) + 1 :]
            return int(value) if re.fullmatch(rb"[0-9]+", value) and int(value) <= U64_MAX else None
    return None


def answer(parse: Callable[[bytes], object], data: bytes) -> object:
    """What the parser says, None for a ValueError."""
    try:
        return parse(data)
    except ValueError:
        return None


digits = st.text("0123456789", max_size=22).map(str.encode)
single_like = st.builds(
    lambda head, tail: head + tail,
    digits | st.binary(max_size=6),
    st.sampled_from([b"", b"\n"]),
)


@given(single_like)
def test_single_numbers_agree_with_the_twin(data: bytes) -> None:
    assert answer(_cgroup.cpu_usage_ns_v1, data) == twin_single(data)
    assert answer(_cgroup.memory_usage_bytes_v2, data) == twin_single(data)


keys = st.sampled_from(
    [b"oom_kill", b"oom", b"oom_kill_disable", b"inactive_file", b"oom_kil", b""]
)
keyed_lines = st.lists(
    st.builds(
        lambda key, sep, value: key + sep + value,
        keys,
        st.sampled_from([b" ", b"\t", b""]),
        digits | st.binary(max_size=4),
    ),
    max_size=6,
).map(b"\n".join)


@given(keyed_lines, st.sampled_from([b"", b"\n"]))
def test_keyed_numbers_agree_with_the_twin(lines: bytes, tail: bytes) -> None:
    data = lines + tail
    assert answer(_cgroup.oom_kills_v2, data) == twin_keyed(data, "oom_kill")
    assert answer(_cgroup.memory_inactive_file_bytes_v2, data) == twin_keyed(data, "inactive_file")


@pytest.mark.parametrize(("parse", "kind"), SINGLE)
@given(value=st.integers(0, 2**62 - 1))
def test_every_single_number(parse: Callable[[bytes], int], kind: str, value: int) -> None:
    assert parse(b"%d\n" % value) == parse(b"%d" % value) == value


@pytest.mark.parametrize(("parse", "kind"), SINGLE)
@pytest.mark.parametrize(
    "data", [b"", b"\n", b"-1\n", b"+1\n", b" 1\n", b"1 \n", b"1\n\n", b"1\0", b"max1\n",
             b"18446744073709551616\n", b"9" * 1000]
)  # fmt: skip
def test_damage_names_the_file(parse: Callable[[bytes], int], kind: str, data: bytes) -> None:
    with pytest.raises(ValueError, match=re.escape(kind)):
        parse(data)


BLKIO = (
    b"8:0 Read 4096\n8:0 Write 512\n8:0 Sync 4608\n8:0 Total 4608\n"
    b"254:16 Read 1000\n254:16 Write 0\n254:16 Total 1000\nTotal 5608\n"
)
IO_STAT = (
    b"8:0 rbytes=4096 wbytes=512 rios=1 wios=1 dbytes=0 dios=0\n"
    b"254:16 rbytes=1000 wbytes=0 rios=3 wios=0 dbytes=7 dios=1\n"
)


def test_what_was_read_and_written_on_all_devices() -> None:
    assert _cgroup.io_bytes_v1(BLKIO) == _cgroup.io_bytes_v2(IO_STAT) == (5096, 512)
    assert _cgroup.io_bytes_v1(b"Total 0\n") == _cgroup.io_bytes_v2(b"") == (0, 0)
    assert _cgroup.io_bytes_v2(b"254:0 \n8:0 rbytes=1 wbytes=2") == (1, 2)
    for wrong in (b"8:0 Read x\n", b"8:0 Read \n", b"8:0 Write %d\n8:1 Write 1\n" % U64_MAX):
        with pytest.raises(ValueError, match="io_service_bytes_recursive"):
            _cgroup.io_bytes_v1(wrong)
    with pytest.raises(ValueError, match=r"io\.stat"):
        _cgroup.io_bytes_v2(b"8:0 rbytes= wbytes=1\n")


numbers = st.integers(0, 2**50)


@given(st.lists(st.tuples(st.integers(0, 259), numbers, numbers), max_size=5))
def test_both_versions_add_up(devices: list[tuple[int, int, int]]) -> None:
    blkio = "".join(
        f"{n}:0 Read {r}\n{n}:0 Write {w}\n{n}:0 Total {r + w}\n" for n, r, w in devices
    )
    io_stat = "".join(f"{n}:0 rbytes={r} wbytes={w} rios=0\n" for n, r, w in devices)
    added = (sum(r for _, r, _ in devices), sum(w for *_, w in devices))
    assert _cgroup.io_bytes_v1(blkio.encode()) == _cgroup.io_bytes_v2(io_stat.encode()) == added


def test_limits() -> None:
    assert _cgroup.memory_limit_bytes_v2(b"max\n") is None
    assert _cgroup.pids_max(b"max\n") is None
    assert _cgroup.memory_limit_bytes_v1(b"9223372036854771712\n") is None
    assert _cgroup.memory_limit_bytes_v1(b"9223372036854710272\n") is None
    assert _cgroup.memory_limit_bytes_v1(b"67108864\n") == 64 << 20
    with pytest.raises(ValueError, match=r"memory\.limit_in_bytes"):
        _cgroup.memory_limit_bytes_v1(b"max\n")


def test_real_looking_files() -> None:
    assert _cgroup.cpu_usage_ns_v2(CPU_STAT) == 1_234_567_000
    assert _cgroup.oom_kills_v2(MEMORY_EVENTS) == 7
    assert _cgroup.oom_kills_v1(OOM_CONTROL) == 7
    assert _cgroup.memory_inactive_file_bytes_v1(MEMORY_STAT_V1) == 22
    assert _cgroup.memory_inactive_file_bytes_v2(MEMORY_STAT_V1) == 11
    assert _cgroup.mem_total_bytes(MEMINFO) == 24_576_000 * 1024


@pytest.mark.parametrize(("parse", "kind", "key"), KEYED)
def test_a_missing_or_damaged_line_names_file_and_key(
    parse: Callable[[bytes], int], kind: str, key: str
) -> None:
    for data in (b"", b"other 1\n", f"{key}\n".encode(), f"{key} x\n".encode(),
                 f"x{key} 1\n".encode(), f"{key} 1 2\n".encode()):  # fmt: skip
        with pytest.raises(ValueError, match=f"{re.escape(kind)}.*{key}"):
            parse(data)


def test_scaling_does_not_wrap() -> None:
    assert _cgroup.cpu_usage_ns_v2(b"usage_usec 18446744073709551") == 18446744073709551000
    with pytest.raises(ValueError, match=r"cpu\.stat"):
        _cgroup.cpu_usage_ns_v2(b"usage_usec 18446744073709552")
    with pytest.raises(ValueError, match="meminfo"):
        _cgroup.mem_total_bytes(b"MemTotal: 18014398509481984 kB\n")


@pytest.mark.parametrize(
    "data", [b"", b"MemTotal:", b"MemTotal: kB", b"MemTotal: 1", b"MemTotal: 1 MB", b"MemTotal:1kB",
             b"MemTotal: 1 kB2\n", b"MemFree: 1 kB\n"]
)  # fmt: skip
def test_damaged_meminfo(data: bytes) -> None:
    with pytest.raises(ValueError, match="/proc/meminfo"):
        _cgroup.mem_total_bytes(data)


def stat_line(pid: int, comm: bytes, numbers: list[int]) -> bytes:
    return b"%d (%s) S %s\n" % (pid, comm, b" ".join(b"%d" % n for n in numbers))


@given(
    st.integers(1, 2**22),
    st.binary(max_size=15) | st.text(") (S\n0", max_size=15).map(str.encode),
    st.lists(u64, min_size=49, max_size=49),
)
def test_proc_stat_agrees_with_the_twin(pid: int, comm: bytes, numbers: list[int]) -> None:
    numbers[4] = -1  # tpgid, the one that is negative in practice
    stat = _cgroup.proc_stat(stat_line(pid, comm, numbers))
    # proc(5) numbers from 1, and field 4 is the first in our list.
    field = dict(enumerate(numbers, start=4))
    assert (stat.pid, stat.comm, stat.state) == (pid, comm, "S")
    assert (stat.utime_ticks, stat.stime_ticks) == (field[14], field[15])
    assert (stat.num_threads, stat.starttime_ticks) == (field[20], field[22])
    assert stat.rss_pages == field[24]


def test_proc_stat_of_this_process() -> None:
    stat = _cgroup.proc_stat(Path("/proc/self/stat").read_bytes())
    assert stat.pid == os.getpid()
    assert stat.comm == Path("/proc/self/comm").read_bytes()[:-1]
    assert stat.state == "R"
    assert stat.rss_pages > 0
    assert stat.starttime_ticks > 0
    assert "ProcStat" in repr(stat)
    assert _cgroup.mem_total_bytes(Path("/proc/meminfo").read_bytes()) == os.sysconf(
        "SC_PHYS_PAGES"
    ) * os.sysconf("SC_PAGE_SIZE")


def test_every_cut_of_a_stat_is_refused_or_complete() -> None:
    line = stat_line(42, b"a) S (b", list(range(100, 149)))
    whole = _cgroup.proc_stat(line)
    for length in range(len(line)):
        cut = answer(_cgroup.proc_stat, line[:length])
        if cut is not None:
            assert isinstance(cut, _cgroup.ProcStat)
            assert (cut.rss_pages, cut.comm) == (whole.rss_pages, whole.comm)


@pytest.mark.parametrize("parse", EVERY)
@given(data=st.binary(max_size=120) | st.text("0123456789() RS\nkB:", max_size=120).map(str.encode))
def test_random_bytes_never_do_worse_than_a_value_error(
    parse: Callable[[bytes], object], data: bytes
) -> None:
    answer(parse, data)


@pytest.mark.parametrize("parse", EVERY)
def test_only_bytes_are_taken(parse: Callable[[object], object]) -> None:
    for wrong in (None, "1", bytearray(b"1"), 1):
        with pytest.raises(TypeError):
            parse(wrong)
