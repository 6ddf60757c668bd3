"""How figures are drawn, reported and compared."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benches import _curves, _dockerd, _report, _swarm
from benches._common import Report, arguments, raw_fdatasync
from benches._peer import histogram, rate
from warren._histogram import Histogram

SVG = "{http://www.w3.org/2000/svg}"


def of(values_ms: list[float]) -> Histogram:
    found = Histogram()
    for value_ms in values_ms:
        found.observe(value_ms / 1e3)
    return found


def test_a_curve_rises_and_ends_where_the_run_can_tell_no_more() -> None:
    points = _curves.curve(of([1.0] * 90 + [10.0] * 9 + [100.0]))
    assert [share for share, _ in points] == sorted(share for share, _ in points)
    assert [ms for _, ms in points] == sorted(ms for _, ms in points)
    assert points[-1][0] == 1
    assert points[-1][1] == pytest.approx(100, rel=0.01)
    assert points[-2][0] == pytest.approx(0.99), "a hundred calls say nothing about 99.9 %"


def test_a_picture_has_a_line_for_each_series_and_dashes_for_limits() -> None:
    curves = {"a < b": _curves.curve(of([1, 2, 3])), "disk": _curves.curve(of([0.1] * 1000))}
    root = ElementTree.fromstring(_curves.render("T & U", curves, ["disk"]))
    lines = root.findall(f"{SVG}polyline")
    assert [line.get("stroke-dasharray") for line in lines] == [None, "6 4"]
    texts = [text.text for text in root.findall(f"{SVG}text")]
    assert {"T & U", "a < b", "disk", "99 %", "1 ms"} <= set(texts)
    for line in lines:
        for point in (line.get("points") or "").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= _curves.WIDTH
            assert 0 <= y <= _curves.HEIGHT
    higher, lower = ((line.get("points") or "").split()[0].split(",")[1] for line in lines)
    assert float(higher) < float(lower), "a millisecond lies above a tenth of one"


def test_a_picture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        _curves.render("empty", {})


def saved(directory: Path, rate_per_second: float, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report("commits")
    report.latency("one member", of([1, 2, 3]), per_second=rate_per_second)
    report.latency("disk", of([0.5]), limit=True)
    report.goal("commits", "≥ 10/s", "9/s", met=False, beside="disk 11/s")
    report.note("the machine was busy")
    monkeypatch.setattr("sys.argv", ["benches/commits.py"])
    report.finish(arguments("", ["--save", str(directory), "--json"]))


def test_the_page_says_what_was_found_and_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    saved(old, 100, monkeypatch)
    saved(new, 50, monkeypatch)
    printed = json.loads(capsys.readouterr().out.splitlines()[0])
    assert printed["rows"]["one member"]["per_second"] == 100
    assert {path.name for path in new.iterdir()} == {"commits.json", "commits.svg", "commits.hdr"}
    page = _report.page(_report.load(new), _report.load(old))
    assert "| commits | ≥ 10/s | 9/s | **missed** | disk 11/s |" in page
    assert "50 (× 0.50, worse)" in page
    assert "![Latency by percentile](commits.svg)" in page
    assert "- the machine was busy" in page


@pytest.mark.parametrize(
    ("column", "now", "before", "words"),
    [
        ("p99", 2.0, 1.0, "× 2.00, worse"),
        ("p99", 1.0, 2.0, "× 0.50, better"),
        ("per_second", 2.0, 1.0, "× 2.00, better"),
        ("p99", 1.1, 1.0, None),
        ("p99", 1.0, None, None),
        ("restarted", 0.0, 1.0, None),
    ],
)
def test_a_figure_is_compared_beyond_noise_only(
    column: str, now: float, before: float | None, words: str | None
) -> None:
    assert _report.ratio(column, now, before) == words


def test_loads_of_processes_are_merged_and_a_refusal_is_no_figure() -> None:
    load = {"done": 3, "seconds": 0.5, "refused": {}, "buckets": [[1_000_000, 2], [3_000_000, 1]]}
    merged = histogram([load, load])
    assert merged.count == 6
    assert merged.quantile(0.5) == pytest.approx(1e-3, rel=0.01)
    assert rate([load, load]) == 6
    with pytest.raises(RuntimeError, match="no_leader"):
        histogram([{**load, "refused": {"no_leader": 1}}])


def test_the_disks_own_time_is_taken_and_nothing_stays(tmp_path: Path) -> None:
    assert raw_fdatasync(tmp_path, 5, raw_fdatasync(tmp_path, 5)).count == 10
    assert list(tmp_path.iterdir()) == []


def node(address: str, **status: object) -> dict[str, object]:
    """A manager as the Engine API lists it."""
    return {"ManagerStatus": {"Addr": address, "Reachability": "reachable", **status}}


def test_a_swarm_s_leader_is_whom_one_node_says_leads() -> None:
    worker: dict[str, object] = {"Status": {"State": "ready"}}
    nodes = [worker, node("a:2377"), node("b:2377", Leader=True), node("c:2377", Leader=False)]
    assert _swarm.leads(nodes) == "b:2377"
    with pytest.raises(ValueError, match="not enough"):
        _swarm.leads([worker, node("a:2377")])


def test_a_swarm_s_manager_counts_once_it_is_reachable() -> None:
    nodes = [node("a:2377"), node("b:2377", Reachability="unreachable"), {}]
    assert _swarm.reachable(nodes) == {"a:2377"}


def test_without_dockerd_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _dockerd.missing("docker") == "not installed: dockerd, docker"
    program = tmp_path / "dockerd"
    program.touch(0o755)
    assert _dockerd.missing() is None


def test_a_dockerd_that_ends_says_why(tmp_path: Path) -> None:
    daemon = _dockerd.Dockerd(tmp_path, inside=["sh", "-c", "echo no room >&2; exit 3"])
    daemon.start()
    try:
        with pytest.raises(RuntimeError, match="ended with 3:\nno room"):
            daemon.wait_ready()
    finally:
        daemon.close()


def test_what_a_dockerd_makes_outside_goes_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, there = tmp_path / "made", tmp_path / "there"
    paths = [made / "key", made, there / "key", there / "new", there]
    monkeypatch.setattr(_dockerd, "_OUTSIDE", tuple(map(str, paths)))
    there.mkdir()
    (there / "key").touch()

    def fails() -> None:
        with _dockerd.nothing_outside():
            made.mkdir()
            (made / "key").touch()
            (there / "new").touch()
            raise OSError("a bench fails")

    with pytest.raises(OSError, match="a bench fails"):
        fails()
    assert sorted(tmp_path.rglob("*")) == [there, there / "key"]
