"""`warrenctl dashboard export`: to standard output, into a directory, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from warren.dashboards import NAMES
from warren.dashboards.grafana import written


@pytest.mark.parametrize("name", NAMES)
def test_one_goes_to_standard_output_as_it_is(ctl: Run, name: str) -> None:
    done = ctl("dashboard", "export", name)
    assert (done.code, done.err) == (0, "")
    assert done.out == written(name)


def test_all_go_into_a_directory_that_is_made(ctl: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "dashboards"
    done = ctl("dashboard", "export", "--output", str(folder), "--format=json")
    assert done.code == 0, done.err
    told = {each["name"]: each for each in json.loads(done.out)}
    assert list(told) == list(NAMES)
    for name in NAMES:
        path = folder / f"warren-{name}.json"
        assert told[name]["file"] == str(path)
        assert path.read_text() == written(name)
        assert json.loads(path.read_text())["uid"] == told[name]["uid"]
    assert len(list(folder.iterdir())) == len(NAMES)


def test_an_older_file_is_replaced_and_others_stay(ctl: Run, tmp_path: Path) -> None:
    (tmp_path / "warren-managers.json").write_text("old")
    (tmp_path / "own.json").write_text("mine")
    done = ctl("dashboard", "export", "managers", "-o", str(tmp_path))
    assert done.code == 0, done.err
    assert (tmp_path / "warren-managers.json").read_text() == written("managers")
    assert (tmp_path / "own.json").read_text() == "mine"
    assert "warren-managers.json" in done.out


def test_runbooks_have_the_url_that_is_given(ctl: Run) -> None:
    done = ctl("dashboard", "export", "cluster", "--runbooks=https://wiki.example/w")
    assert done.out == written("cluster", "https://wiki.example/w") != written("cluster")


@pytest.mark.parametrize(
    "url", ["wiki", "javascript:alert(1)", "https://", "https://w/?page=", "http://[/"]
)
def test_what_is_no_url_is_refused(ctl: Run, url: str) -> None:
    done = ctl("dashboard", "export", "cluster", f"--runbooks={url}")
    assert (done.code, done.out) == (2, "")
    assert "https://wiki.example/runbooks" in done.err


def test_without_a_name_a_directory_is_needed(ctl: Run) -> None:
    done = ctl("dashboard", "export")
    assert (done.code, done.out) == (2, "")
    assert "--output" in done.err


def test_an_unknown_name_is_refused_with_those_there_are(ctl: Run) -> None:
    done = ctl("dashboard", "export", "nodes")
    assert done.code == 2
    assert "managers" in done.err


def test_where_nothing_can_be_written_it_says_so_and_leaves_nothing(
    ctl: Run, tmp_path: Path
) -> None:
    (tmp_path / "warren-cluster.json").mkdir()
    done = ctl("dashboard", "export", "cluster", "-o", str(tmp_path), "--format=json")
    assert done.code == 1
    assert json.loads(done.err)["error"]["code"] == "failed"
    assert [path.name for path in tmp_path.iterdir()] == ["warren-cluster.json"]
