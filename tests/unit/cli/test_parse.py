"""Every form of a flag's value that is taken, and every one that is refused with a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.cli import parse

BIND = parse.MountFlag("bind", "/a", "/b", False, 0)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1b", 1),
        ("64k", 64 << 10),
        ("64K", 64 << 10),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64mb", 64 << 20),
        ("64MiB", 64 << 20),
        ("64 MiB", 64 << 20),
        ("1.5g", 3 << 29),
        ("0.1k", 102),
        ("2t", 2 << 40),
        ("1p", 1 << 50),
        (" 8m ", 8 << 20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse.memory_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "m", "-1m", "64q", "6 4m", "1,5g", "0x10", "1e3", "1ib", "٣m", "nan", "99999999p"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"no size|than can be counted"):
        parse.memory_bytes(text)


@given(st.integers(0, 2**64 - 1))
def test_a_size_in_bytes_is_itself(size: int) -> None:
    assert parse.memory_bytes(str(size)) == size


@pytest.mark.parametrize(
    ("text", "milli"),
    [
        ("0", 0),
        ("1", 1000),
        ("0.5", 500),
        (".25", 250),
        ("2.", 2000),
        ("1.001", 1001),
        ("1.5000", 1500),
        ("64", 64_000),
    ],
)
def test_cpus(text: str, milli: int) -> None:
    assert parse.cpu_milli(text) == milli


@pytest.mark.parametrize("text", ["", ".", "-1", "0.0001", "1/2", "one", "1e2", "9" * 30])
def test_what_is_no_number_of_cpus(text: str) -> None:
    with pytest.raises(ValueError, match=r"CPU"):
        parse.cpu_milli(text)


@given(st.integers(0, 10**9))
def test_cpus_round_trip(milli: int) -> None:
    assert parse.cpu_milli(f"{milli // 1000}.{milli % 1000:03d}") == milli


@pytest.mark.parametrize(("text", "percent"), [("30%", 30), (" 5 % ", 5), ("100", 100)])
def test_shares(text: str, percent: int) -> None:
    assert parse.percent(text) == percent


@pytest.mark.parametrize("text", ["", "%", "0%", "101%", "-3", "1.5%", "a"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match="no share"):
        parse.percent(text)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("10", 10_000),
        ("10s", 10_000),
        ("0", 0),
        ("1m30s", 90_000),
        ("500ms", 500),
        ("1.5s", 1_500),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("1s250ms", 1_250),
        ("1m", 60_000),
    ],
)
def test_durations(text: str, duration: int) -> None:
    assert parse.duration_ms(text) == duration


@pytest.mark.parametrize("text", ["", " ", "s", "-1s", "10x", "1s1m", "1.5m", "ten", "50d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"no duration|too long"):
        parse.duration_ms(text)


def test_a_stop_timeout_is_not_zero() -> None:
    assert parse.stop_timeout_ms("1ms") == 1
    with pytest.raises(ValueError, match="1ms kills at once"):
        parse.stop_timeout_ms("0")


def test_since() -> None:
    now_ms = 1_767_225_600_000
    assert parse.since_ms("10m", now_ms) == now_ms - 600_000
    assert parse.since_ms("2026-01-01T00:00:00Z", 0) == now_ms
    assert parse.since_ms("2026-01-01T01:00:00+01:00", 0) == now_ms
    assert parse.since_ms("1d", 5) == 0
    with pytest.raises(ValueError, match="neither"):
        parse.since_ms("yesterday", now_ms)


@pytest.mark.parametrize(
    ("text", "pair"),
    [("a=b", ("a", "b")), ("a", ("a", "")), ("a=", ("a", "")), ("a=b=c", ("a", "b=c"))],
)
def test_labels(text: str, pair: tuple[str, str]) -> None:
    assert parse.label(text) == pair


@pytest.mark.parametrize("text", ["", "=b", " a=b"])
def test_what_is_no_label(text: str) -> None:
    with pytest.raises(ValueError, match="no label"):
        parse.label(text)


def test_variables() -> None:
    environ = {"HOME": "/root", "EMPTY": ""}
    assert parse.env_variable("A=1", environ) == "A=1"
    assert parse.env_variable("A=", environ) == "A="
    assert parse.env_variable("A=x=y z", environ) == "A=x=y z"
    assert parse.env_variable("HOME", environ) == "HOME=/root"
    assert parse.env_variable("EMPTY", environ) == "EMPTY="
    for text in ("", "=1", "A B=1", "A\t=1"):
        with pytest.raises(ValueError, match="no variable"):
            parse.env_variable(text, environ)
    with pytest.raises(ValueError, match="NOWHERE is not set"):
        parse.env_variable("NOWHERE", environ)


def test_an_env_file() -> None:
    lines = ["\ufeffA=1\r\n", "# note\n", "\n", "  B='two words'\n", "HOME\n", "C=#3\n", "   \n"]
    assert parse.env_file(lines, "f", {"HOME": "/root"}) == [
        "A=1",
        "B='two words'",
        "HOME=/root",
        "C=#3",
    ]


def test_a_wrong_line_of_an_env_file_is_named() -> None:
    with pytest.raises(ValueError, match=r"web\.env, line 2: '=1' is no variable"):
        parse.env_file(["A=1", "=1"], "web.env", {})


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("type=bind,source=/a,target=/b", BIND),
        ("type=bind,src=/a,dst=/b", BIND),
        ("target=/b,source=/a,type=bind", BIND),
        ("type=bind,source=/a,destination=/b,readonly=false", BIND),
        ("type=bind,source=/a,target=/b,readonly", parse.MountFlag("bind", "/a", "/b", True, 0)),
        ("type=bind,source=/a,target=/b,ro=1", parse.MountFlag("bind", "/a", "/b", True, 0)),
        ('type=bind,"source=/a,c",target=/b', parse.MountFlag("bind", "/a,c", "/b", False, 0)),
        ("type=bind,source=/a=c,target=/b", parse.MountFlag("bind", "/a=c", "/b", False, 0)),
        ("type=tmpfs,target=/t", parse.MountFlag("tmpfs", "", "/t", False, 0)),
        ("type=tmpfs,dst=/t,tmpfs-size=64m", parse.MountFlag("tmpfs", "", "/t", False, 64 << 20)),
        ("type=volume,source=d,target=/t", parse.MountFlag("volume", "d", "/t", False, 0)),
        ("type=volume,src=d,dst=/t,ro", parse.MountFlag("volume", "d", "/t", True, 0)),
        (
            "type=volume,source=d,target=/t,exclusive",
            parse.MountFlag("volume", "d", "/t", False, 0, exclusive=True),
        ),
    ],
)
def test_mounts(text: str, flag: parse.MountFlag) -> None:
    assert parse.mount(text) == flag


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "type=bind, type=tmpfs or type=volume"),
        ("source=/a,target=/b", "type=bind, type=tmpfs or type=volume"),
        ("type=nfs,source=a,target=/b", "type=bind, type=tmpfs or type=volume"),
        ("type=volume,source=/a,target=/b", "name of a volume"),
        ("type=volume,target=/b", "name of a volume"),
        ("type=volume,source=a,target=/b,tmpfs-size=1m", "type=tmpfs only"),
        ("type=volume,source=a,target=/b,exclusive=maybe", "true or false"),
        ("type=bind,source=/a,target=/b,exclusive", "type=volume only"),
        ("type=bind,target=/b", "absolute path on the host"),
        ("type=bind,source=a,target=/b", "absolute path on the host"),
        ("type=bind,source=/a", "absolute path in the container"),
        ("type=bind,source=/a,target=b", "absolute path in the container"),
        ("type=bind,source=/a,target=/b,tmpfs-size=1m", "type=tmpfs only"),
        ("type=tmpfs,source=/a,target=/b", "has no source"),
        ("type=tmpfs,target=/b,tmpfs-size=big", "no size"),
        ("type=bind,sorce=/a,target=/b", "did you mean source"),
        ("type=bind,zzz=/a,target=/b", "known are type"),
        ("type=bind,source=/a,src=/c,target=/b", "given twice"),
        ("type=bind,source,target=/b", "write source=VALUE"),
        ("type=bind,source=/a,target=/b,readonly=perhaps", "true or false"),
        ("/a:/b", "unknown key"),
    ],
)
def test_what_is_no_mount(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse.mount(text)


def test_scales() -> None:
    assert parse.scale("web=3") == ("web", 3)
    assert parse.scale("web=0") == ("web", 0)
    for text in ("web", "web=", "=3", "web=-1", "web=three", "web=4294967296", "3"):
        with pytest.raises(ValueError, match=r"write"):
            parse.scale(text)


@pytest.mark.parametrize(
    ("age_ms", "text"),
    [
        (-5, "0s"),
        (999, "0s"),
        (119_000, "119s"),
        (120_000, "2m"),
        (7_199_000, "119m"),
        (7_200_000, "2h"),
        (172_799_000, "47h"),
        (172_800_000, "2d"),
        (8_640_000_000, "100d"),
    ],
)
def test_ages(age_ms: int, text: str) -> None:
    assert parse.age_text(age_ms) == text
