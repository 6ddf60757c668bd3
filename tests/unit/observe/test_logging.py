"""The log pipeline: its format, its bounds, and that nobody who logs ever waits."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
import pickle
import re
import time
import warnings
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.observe.log_levels import COMPONENTS
from warren.observe.log_lines import CORRELATING
from warren.observe.log_sampling import REPEATS_MAX
from warren.observe.logging import (
    LEVELS,
    LINE_BYTES_MAX,
    LogPipeline,
    encode_console,
    encode_json,
    get_logger,
    level_name,
)
from warren.observe.metrics import Metrics
from warren.observe.secret import Secret

DEADLINE_S = 30
WHEN = 1_935_748_801.25


class Log:
    """An installed pipeline that writes into a pipe, and what comes out of it."""

    def __init__(self, **options: Any) -> None:
        self.reader, self.writer = os.pipe()
        self.pipeline = LogPipeline(fd=self.writer, **options)
        self.pipeline.install()

    def text(self) -> str:
        """Everything written; closes the pipeline."""
        self.pipeline.close(DEADLINE_S * 1000)
        os.close(self.writer)
        self.writer = -1
        with open(self.reader, "rb", closefd=False) as file:
            return file.read().decode()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().split("\n")[:-1]]

    def close(self) -> None:
        if self.writer >= 0:
            os.close(self.reader)
            self.reader = -1
            self.pipeline.close()
            os.close(self.writer)
        else:
            os.close(self.reader)


@contextlib.contextmanager
def logging_restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("warren")
    saved = root.handlers[:], root.level, ours.level
    try:
        yield
    finally:
        for component in COMPONENTS:
            logging.getLogger(f"warren.{component}").setLevel(logging.NOTSET)
        logging.captureWarnings(False)
        root.handlers[:], root.level, ours.level = saved
        # Levels are cached in each logger; setting one through the API forgets them all.
        root.setLevel(saved[1])
        ours.setLevel(saved[2])


@pytest.fixture
def log() -> Iterator[Log]:
    with logging_restored():
        made = Log()
        yield made
        made.close()


@pytest.fixture
def debug_log() -> Iterator[Log]:
    with logging_restored():
        made = Log(level="debug")
        yield made
        made.close()


def until(condition: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.001)


def test_a_line_has_what_correlates(log: Log) -> None:
    api = get_logger("api").bind(method="CreateService")
    api.info("created %s", "web", extra={"service_id": "s1", "method": "Override"})
    api.bind(request_id="r1").warning("slow")
    first, second = log.lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first.pop("time"))
    assert first == {
        "level": "info",
        "component": "api",
        "message": "created web",
        "service_id": "s1",
        "method": "Override",
    }
    del second["time"]
    assert second == {
        "level": "warn",
        "component": "api",
        "message": "slow",
        "method": "CreateService",
        "request_id": "r1",
    }


def test_the_core_goes_through_the_same_pipeline(log: Log) -> None:
    log.pipeline.emit_core("info", "raft", "elected", b'{"term":7,"node_id":"n1"}')
    log.pipeline.emit_core("error", "wal", "odd", b"")
    log.pipeline.emit_core("debug", "raft", "hidden", b"{}")
    log.pipeline.emit_core("trace", "raft", "hidden", b"{}")
    log.pipeline.emit_core("shout", "raft", "unknown level", b"[1]")
    log.pipeline.emit_core("warning", "raft", "as the core calls it", b"")
    first, second, third, fourth = log.lines()
    assert first.keys() == {"level", "time", "component", "message", "term", "node_id"}
    assert (first["level"], first["component"], first["term"]) == ("info", "raft", 7)
    assert (second["level"], second["message"]) == ("error", "odd")
    assert (third["level"], third["fields"]) == ("error", "[1]")
    assert fourth["level"] == "warn"


def test_a_line_of_the_core_has_the_time_at_which_it_was_made() -> None:
    with logging_restored():
        log = Log(clock=lambda: WHEN + 60)
        try:
            log.pipeline.emit_core("info", "raft", "taken late", b"", int(WHEN * 1000))
            log.pipeline.emit_core("info", "raft", "of an older core", b"")
            times = [line["time"] for line in log.lines()]
        finally:
            log.close()
    assert times == ["2031-05-05T12:00:01.250000Z", "2031-05-05T12:01:01.250000Z"]


def test_other_libraries_show_their_warnings_only(debug_log: Log) -> None:
    logging.getLogger("grpc").info("chatter")
    logging.getLogger("grpc").warning("trouble")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # Anew: pytest has put its own collector of warnings in front of ours.
        logging.captureWarnings(False)
        debug_log.pipeline.install()
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    messages = {line["component"]: line["message"] for line in debug_log.lines()}
    assert messages["grpc"] == "trouble"
    assert "DeprecationWarning: old" in messages["py.warnings"]
    assert len(messages) == 2


def test_an_answer_that_met_nobody_is_no_news(log: Log) -> None:
    grpc = logging.getLogger("grpc._cython.cygrpc")
    grpc.error("ExecuteBatchError raised in core by servicer method [%s]", "/warren.v1.Manager/X")
    grpc.error("Servicer method raised")
    assert [line["message"] for line in log.lines()] == ["Servicer method raised"]


def test_the_level_changes_at_run_time(log: Log) -> None:
    heard: list[bool] = []
    log.pipeline.on_verbosity(heard.append)
    api = get_logger("api")
    api.debug("one")
    log.pipeline.set_level("debug")
    assert log.pipeline.log_level == "debug"
    api.debug("two")
    log.pipeline.emit_core("debug", "raft", "three", b"")
    log.pipeline.set_level("error")
    api.warning("four")
    with pytest.raises(ValueError, match="must be one of debug, info, warn, error, fatal"):
        log.pipeline.set_level("loud")
    assert [line["message"] for line in log.lines()] == ["two", "three"]
    assert heard == [False, True, False]


def test_a_component_has_a_level_of_its_own_in_the_core_too(log: Log) -> None:
    pipeline = log.pipeline
    pipeline.set_component_level("worker", "debug")
    pipeline.set_component_level("raft", "error")
    get_logger("worker").debug("one")
    get_logger("worker.store").debug("two")
    get_logger("api").debug("hidden")
    pipeline.emit_core("info", "raft", "hidden", b"")
    pipeline.emit_core("error", "raft", "three", b"")
    pipeline.emit_core("info", "wal", "four", b"")
    pipeline.set_level("warn")
    get_logger("worker").debug("five")
    pipeline.set_component_level("all", "default")
    get_logger("worker").info("hidden")
    pipeline.emit_core("info", "raft", "hidden", b"")
    pipeline.emit_core("warning", "raft", "six", b"")
    with pytest.raises(ValueError, match="no component 'rafft'"):
        pipeline.set_component_level("rafft", "debug")
    lines = [(line["component"], line["message"]) for line in log.lines()]
    assert [text for component, text in lines if component != "log"] == [
        "one", "two", "three", "four", "five", "six",
    ]  # fmt: skip
    assert ("log", "the log level of worker is debug, as asked") in lines


@pytest.mark.parametrize(("asked", "visible"), [("debug", True), ("error", False)])
def test_a_level_for_a_time_goes_back_by_itself(log: Log, asked: str, visible: bool) -> None:
    api = get_logger("api")
    log.pipeline.set_component_level("api", asked, 0.05)
    rows = {row.component: row for row in log.pipeline.level_rows()}
    assert (rows["api"].level, rows["raft"].level) == (asked, "info")
    # Nobody logs meanwhile: it ends all the same.
    until(lambda: not any(row.changed for row in log.pipeline.level_rows()))
    until(lambda: api.isEnabledFor(logging.INFO) and not api.isEnabledFor(logging.DEBUG))
    api.info("after")
    api.debug("hidden")
    messages = [line["message"] for line in log.lines()]
    assert f"the log level of api is {asked} for 0 s, as asked" in messages
    assert "the log level of api is info again" in messages
    assert messages.count("after") == 1
    assert "hidden" not in messages


def test_repeats_are_told_in_one_line(log: Log) -> None:
    api = get_logger("api")
    for number in range(REPEATS_MAX["info"] + 30):
        api.info("took %d ms", number, extra={"request_id": f"r{number}", "detail": "x"})
        log.pipeline.emit_core("warning", "peer", f"cannot reach 10.0.0.{number}:2378", b"")
    api.error("broken")
    lines = log.lines()
    assert sum(line["message"].startswith("took ") for line in lines) == REPEATS_MAX["info"]
    assert sum(line["message"].startswith("cannot ") for line in lines) == REPEATS_MAX["warn"]
    told = {line["component"]: line for line in lines if "left_out" in line}
    assert told["api"]["message"] == "30 more like this: took %d ms"
    assert (told["api"]["level"], told["api"]["left_out"]) == ("info", 30)
    assert told["api"]["request_id"] == f"r{REPEATS_MAX['info'] + 29}"
    assert "detail" not in told["api"]
    assert told["peer"]["message"] == "30 more like this: cannot reach #"
    assert sum(line["message"] == "broken" for line in lines) == 1
    metrics = Metrics()
    log.pipeline.declare(metrics)
    text = metrics.render()
    assert b'warren_log_suppressed_total{component="api",reason="repeated"} 30.0\n' in text
    assert b'warren_log_suppressed_total{component="peer",reason="repeated"} 30.0\n' in text


def test_levels_by_number() -> None:
    assert {name: level_name(number) for name, number in LEVELS.items()} == {n: n for n in LEVELS}
    assert [level_name(n) for n in (0, 5, 15, 25, 35, 45, 99)] == [
        "debug", "debug", "debug", "info", "warn", "error", "fatal",
    ]  # fmt: skip


def raise_and_log() -> None:
    try:
        raise ConnectionError("refused")
    except ConnectionError:
        get_logger("runtime").exception("cannot reach it", extra={"operation": "start"})


def test_an_exception_is_fields_and_no_traceback(log: Log) -> None:
    raise_and_log()
    [line] = log.lines()
    assert line["error"] == "ConnectionError: refused"
    assert (line["level"], line["operation"]) == ("error", "start")
    assert "traceback" not in line


def test_a_traceback_at_debug_level(debug_log: Log) -> None:
    raise_and_log()
    [line] = debug_log.lines()
    assert "raise_and_log" in line["traceback"]


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_nothing_that_is_logged_can_break_it(log: Log) -> None:
    api = get_logger("api")
    cycle: list[object] = []
    cycle.append(cycle)
    values: list[object] = [
        object(), Unshowable(), cycle, {1: 2, (3, 4): 5}, 2**200, float("nan"), b"\xff", "\udc80",
        {1, 2}, ValueError("x"), "\0\n\u2028", lambda: None,
    ]  # fmt: skip
    for value in values:
        api.info("value", extra={"value": value})
    # Not through a logger: pytest's own handler would fail on these.
    for message, arguments in (("%d of %s", ("x",)), (Unshowable(), ())):
        made = logging.LogRecord("warren.api", logging.INFO, "", 0, message, arguments, None)
        log.pipeline.handle(made)
    lines = log.lines()
    assert lines[-2]["message"] == "%d of %s ('x',)"
    assert "cannot be shown" in lines[-1]["message"]
    assert (len(lines), log.pipeline.dropped) == (len(values) + 2, 0)
    assert [line["message"] for line in lines[: len(values)]] == ["value"] * len(values)


def test_a_field_cannot_pose_as_one_of_ours(log: Log) -> None:
    log.pipeline.emit_core("info", "raft", "real", b'{"message":"forged","level":"x","time":"y"}')
    [line] = log.lines()
    assert (line["message"], line["message_"], line["level_"]) == ("real", "forged", "x")


texts = st.text(max_size=50) | st.text(st.characters(categories=["Cc", "Cs", "Zl"]), max_size=5000)
field_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


@given(texts, texts, st.dictionaries(texts, field_values, max_size=6))
def test_every_line_is_one_bounded_json_object(
    component: str, message: str, fields: dict[str, object]
) -> None:
    line = encode_json("info", WHEN, component, message, fields)
    assert len(line) <= LINE_BYTES_MAX
    assert b"\n" not in line
    assert json.loads(line)["time"] == "2031-05-05T12:00:01.250000Z"


def test_a_huge_line_is_cut_and_says_so() -> None:
    line = encode_json("warn", WHEN, "\0" * 100_000, "\0" * 100_000, {"x": "y" * 100_000})
    assert len(line) <= LINE_BYTES_MAX
    parsed = json.loads(line)
    assert (parsed["level"], parsed["truncated"]) == ("warn", True)
    assert "x" not in parsed


def test_an_oversized_line_keeps_that_by_which_it_is_found() -> None:
    fields = {
        "containers": ["c" * 32] * 10_000,
        "request_id": "abc-1",
        "method": "CreateService",
        "service_name": "s" * 100_000,
        "error": "no space: " + "e" * 100_000,
    }
    line = encode_json("warn", WHEN, "api", "refused", fields)
    assert len(line) <= LINE_BYTES_MAX
    parsed = json.loads(line)
    assert (parsed["request_id"], parsed["method"]) == ("abc-1", "CreateService")
    assert parsed["service_name"] == "s" * 256
    assert parsed["error"].startswith("no space: eee")
    assert parsed["truncated"] is True
    assert "containers" not in parsed


@pytest.mark.parametrize("text", ["\0", "\ud800", "\U0001f600"])
def test_whatever_is_kept_of_an_oversized_line_it_is_bounded(text: str) -> None:
    fields = dict.fromkeys((*CORRELATING, "error"), text * 100_000)
    line = encode_json("warn", WHEN, text * 100_000, text * 100_000, fields)
    assert len(line) <= LINE_BYTES_MAX
    assert json.loads(line)["truncated"] is True


def test_console_lines_are_for_people() -> None:
    fields = {"service_id": "s1", "why": "no room", "empty": ""}
    line = encode_console("warn", WHEN, "scheduler", "pending\x1b[31m\nforged", fields).decode()
    assert line == (
        "12:00:01.250 WARN  scheduler  pending\\x1b[31m\\nforged "
        'service_id=s1 why="no room" empty=""'
    )


def test_console_is_chosen_for_a_terminal() -> None:
    leader, follower = os.openpty()
    try:
        with logging_restored():
            pipeline = LogPipeline(fd=follower)
            pipeline.emit_core("info", "raft", "hello", b"")
            pipeline.close(DEADLINE_S * 1000)
        assert os.read(leader, 1000).decode().strip().endswith("INFO  raft       hello")
    finally:
        os.close(leader)
        os.close(follower)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_blocked_stderr_blocks_nobody_and_drops_are_told(blocking: bool) -> None:
    with logging_restored():
        log = Log(queue_max=50)
        try:
            os.set_blocking(log.writer, blocking)
            api = get_logger("api")
            total = 0
            # Nobody reads: the pipe fills, then the queue, and the rest is dropped.
            while log.pipeline.dropped < 10:
                api.error("x" * 1000)  # errors are never left out as repeated
                total += 1
            read = io.BytesIO()
            expected = total - log.pipeline.dropped
            while read.getvalue().count(b"x" * 1000) < expected:
                read.write(os.read(log.reader, 65536))
            api.info("after")
            read.write(log.text().encode())
        finally:
            log.close()
    lines = [json.loads(line) for line in read.getvalue().splitlines()]
    assert [line["message"] for line in lines].count("after") == 1
    told = sum(line.get("dropped", 0) for line in lines)
    assert told == log.pipeline.dropped
    written = sum(line["message"].startswith("xxx") for line in lines)
    assert written + told == total


def test_a_broken_stderr_is_counted() -> None:
    with logging_restored():
        log = Log()
        os.close(log.reader)
        get_logger("api").info("to nobody")
        until(lambda: log.pipeline.dropped == 1)
        log.reader = os.open(os.devnull, os.O_RDONLY)
        log.close()


def test_the_log_counts_itself(log: Log) -> None:
    metrics = Metrics()
    log.pipeline.declare(metrics)
    get_logger("api").info("one")
    until(lambda: b"warren_log_lines_total 1.0\n" in metrics.render())
    text = metrics.render()
    assert b"warren_log_dropped_total 0.0\n" in text
    assert b"warren_log_queue_depth 0.0\n" in text
    for reason in (b"rate", b"repeated"):
        sample = b'warren_log_suppressed_total{component="raft",reason="%s"} 0.0\n' % reason
        assert sample in text


SECRETS = [Secret("hunter2"), Secret(b"hunter2")]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_does_not_show(secret: Secret, log: Log) -> None:
    assert f"{secret} {secret!r} {secret:>20} %s" % secret == " ".join(["[redacted]"] * 4)
    api = get_logger("api")
    api.info("with %s", secret, extra={"token": secret, "deep": {"list": [secret]}})
    api.info(secret, extra={"odd": {(1, 2): secret}, "set": [object(), secret]})
    text = log.text()
    assert "hunter2" not in text
    assert text.count("[redacted]") == 6


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_cannot_leave_by_accident(secret: Secret) -> None:
    for leave in (json.dumps, msgspec.json.encode, pickle.dumps, copy.copy, copy.deepcopy, hash):
        with pytest.raises(TypeError):
            leave(secret)


def test_a_secret_is_compared_and_revealed() -> None:
    assert Secret("a").reveal() == "a"
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != Secret(b"a")
    assert Secret("\udc80") == Secret("\udc80")
    assert Secret("a") != "a"
