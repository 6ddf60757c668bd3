"""One log pipeline for Python's records and the core's: one JSON object a line on stderr.

Who logs never waits: a line is made in the calling thread and put into a bounded queue, from
which one thread writes. When stderr is not read, the queue fills; what does not fit is dropped
and counted, and a line says so once there is room again.

Fields come from `extra=`, or from a bound logger:

    log = get_logger("api").bind(method="CreateService")
    log.info("created", extra={"service_id": service_id})
"""

from __future__ import annotations

import logging
import os
import queue
import re
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from warren.observe.metrics import Metrics

QUEUE_MAX: Final = 4096
LINE_BYTES_MAX: Final = 16 * 1024
# A character takes at most seven bytes of JSON, so one text alone never makes a line too long.
TEXT_CHARS_MAX: Final = 2048
COMPONENT_CHARS_MAX: Final = 64
BATCH_MAX: Final = 256

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
"""The level names of the log, as configured and as written. The core's `trace` counts as debug."""

_GRPC: Final = "grpc._cython.cygrpc"
_ROOT: Final = "warren"
_NAMES: Final = {number: name for name, number in LEVELS.items()}
_OWN_KEYS: Final = frozenset({"level", "time", "component", "message"})
_RECORD_KEYS: Final = frozenset(
    {*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime", "taskName"}
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class BoundLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that adds the same fields to every line."""

    def __init__(self, logger: logging.Logger, fields: Mapping[str, object]) -> None:
        super().__init__(logger, dict(fields))

    def bind(self, **fields: object) -> BoundLogger:
        """The same logger with more fields."""
        return BoundLogger(self.logger, {**(self.extra or {}), **fields})

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Join the bound fields with the line's own, which win."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def get_logger(component: str) -> BoundLogger:
    """The logger of a component, such as `api`, `session`, `runtime`."""
    return BoundLogger(logging.getLogger(f"{_ROOT}.{component}"), {})


def level_number(name: str) -> int:
    """A level's number in Python's logging. ValueError when it is none of LEVELS."""
    if name not in LEVELS:
        raise ValueError(f"log level {name!r}: must be one of {', '.join(LEVELS)}")
    return LEVELS[name]


def level_name(number: int) -> str:
    """The name of the level that a number belongs to: 30 and 35 are `warn`."""
    reached = [known for known in _NAMES if known <= number]
    return _NAMES[max(reached)] if reached else "debug"


def encode_json(
    level: str, seconds: float, component: str, message: str, fields: Mapping[str, object]
) -> bytes:
    """One line of JSON, without the newline; never raises, never over LINE_BYTES_MAX.

    `seconds` is since the epoch. Values that JSON cannot hold are written as their text.
    """
    record: dict[str, object] = {
        "level": level,
        "time": _timestamp(seconds),
        "component": component,
        "message": message,
    }
    own = dict(record)
    record |= {f"{key}_" if key in _OWN_KEYS else key: value for key, value in fields.items()}
    try:
        line = msgspec.json.encode(record, enc_hook=_text)
    except Exception:  # noqa: BLE001 - logging must not raise
        line = msgspec.json.encode({_text(key): _text(value) for key, value in record.items()})
    if len(line) <= LINE_BYTES_MAX:
        return line
    own["message"] = _text(message)
    return msgspec.json.encode(
        {**own, "component": _text(component)[:COMPONENT_CHARS_MAX], "truncated": True}
    )


def encode_console(
    level: str, seconds: float, component: str, message: str, fields: Mapping[str, object]
) -> bytes:
    """One line for people: time of day, level, component, message, `key=value` pairs."""
    clock = _timestamp(seconds)[11:23]
    pairs = "".join(f" {key}={_quoted(_text(value))}" for key, value in fields.items())
    text = f"{clock} {level.upper():5} {component:10} {message}{pairs}"
    return _CONTROL.sub(_escaped, text).encode("utf-8", "backslashreplace")[:LINE_BYTES_MAX]


def _timestamp(seconds: float) -> str:
    when = datetime.fromtimestamp(seconds, UTC)
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _text(value: object) -> str:
    """Any value as a bounded text that can be encoded; a `str` stays as it is otherwise."""
    try:
        text = str(value)[:TEXT_CHARS_MAX]
    except Exception:  # noqa: BLE001 - logging must not raise
        text = f"<{type(value).__name__} that cannot be shown>"
    return text.encode("utf-8", "backslashreplace").decode()


def _quoted(text: str) -> str:
    return f'"{text}"' if not text or " " in text else text


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


Encoder = Callable[[str, float, str, str, Mapping[str, object]], bytes]


class LogPipeline(logging.Handler):
    """Takes records, writes lines to `fd`. `install` makes it the process's log.

    `clock` gives seconds since the epoch, for lines that are not Python's own records.
    """

    def __init__(
        self,
        *,
        level: str = "info",
        fd: int | None = None,
        console: bool | None = None,
        queue_max: int = QUEUE_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._fd = sys.stderr.fileno() if fd is None else fd
        is_console = os.isatty(self._fd) if console is None else console
        self._encode: Encoder = encode_console if is_console else encode_json
        self._clock = clock
        self._threshold = level_number(level)
        self._listeners: list[Callable[[str], None]] = []
        # A SimpleQueue, because its `put` may be entered again: a destructor that the garbage
        # collector runs in the middle of one may log too.
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._queue_max = queue_max
        self._dropped = 0
        self._dropped_told = 0
        self._written = 0
        self._writer = threading.Thread(target=self._write_lines, name="warren-log", daemon=True)
        self._writer.start()

    def install(self) -> None:
        """Send Warren's records from its level on, and other libraries' warnings, here."""
        root = logging.getLogger()
        root.handlers[:] = [self]
        root.setLevel(logging.WARNING)
        logging.getLogger(_ROOT).setLevel(self._threshold)
        logging.captureWarnings(True)
        logging.getLogger(_GRPC).addFilter(_is_news)

    @property
    def log_level(self) -> str:
        """The name of the level from which lines are written."""
        return level_name(self._threshold)

    def set_level(self, name: str) -> None:
        """Change the level at run time. ValueError when it is none of LEVELS."""
        self._threshold = level_number(name)
        logging.getLogger(_ROOT).setLevel(self._threshold)
        for listener in self._listeners:
            listener(name)

    def on_level(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the level's name now and at each change: for the core's own."""
        self._listeners.append(listener)
        listener(self.log_level)

    def declare(self, metrics: Metrics) -> None:
        """Export the queue's depth and what was written and dropped."""
        metrics.gauge_function(
            "warren_log_queue_depth", "Log lines waiting to be written.", self._queue.qsize
        )
        metrics.counter_function(
            "warren_log_lines_total", "Log lines written.", lambda: self._written
        )
        metrics.counter_function(
            "warren_log_dropped_total",
            "Log lines dropped because stderr was not read fast enough or failed.",
            lambda: self._dropped,
        )

    @property
    def dropped(self) -> int:
        """Lines dropped so far."""
        return self._dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Take one of Python's records; called by `logging`."""
        try:
            fields = {k: v for k, v in record.__dict__.items() if k not in _RECORD_KEYS}
            self._add_exception(record, fields)
            component = record.name.removeprefix(f"{_ROOT}.")
            line = self._encode(
                level_name(record.levelno), record.created, component, _message(record), fields
            )
        except Exception:  # noqa: BLE001 - logging must not raise
            self.handleError(record)
            return
        self._put(line)

    def emit_core(self, level: str, component: str, message: str, fields_json: bytes) -> None:
        """Take a line from the core. `fields_json` is a JSON object, or empty."""
        name = "debug" if level == "trace" else level if level in LEVELS else "error"
        if LEVELS[name] < self._threshold:
            return
        try:
            fields = msgspec.json.decode(fields_json or b"{}", type=dict[str, Any])
        except msgspec.DecodeError:
            fields = {"fields": fields_json.decode("utf-8", "backslashreplace")}
        self._put(self._encode(name, self._clock(), component, message, fields))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Count a record that could not be made a line; the default would print to stderr."""
        self._dropped += 1

    def _add_exception(self, record: logging.LogRecord, fields: dict[str, object]) -> None:
        if not record.exc_info or record.exc_info[1] is None:
            return
        error = record.exc_info[1]
        fields.setdefault("error", f"{type(error).__name__}: {_text(error)}")
        if self._threshold <= logging.DEBUG:
            fields["traceback"] = "".join(traceback.format_exception(error))

    def _put(self, line: bytes) -> None:
        if self._queue.qsize() >= self._queue_max:
            self._dropped += 1
        else:
            self._queue.put(line + b"\n")

    def _write_lines(self) -> None:
        while True:
            lines = [self._queue.get()]
            while len(lines) < BATCH_MAX and lines[-1] is not None:
                try:
                    lines.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            self._write([line for line in lines if line is not None])
            if lines[-1] is None:
                return

    def _write(self, lines: list[bytes]) -> None:
        view = memoryview(b"".join([*self._tell_dropped(), *lines]))
        try:
            while view:
                view = view[self._write_some(view) :]
            self._written += len(lines)
        except OSError:
            self._dropped += len(lines)

    def _write_some(self, view: memoryview) -> int:
        """Write at least a byte; waits for room, also on a descriptor that does not block."""
        while True:
            try:
                return os.write(self._fd, view)
            except BlockingIOError:
                writable = select.poll()
                writable.register(self._fd, select.POLLOUT)
                writable.poll(1000)

    def _tell_dropped(self) -> list[bytes]:
        missed = self._dropped - self._dropped_told
        if not missed:
            return []
        self._dropped_told += missed
        text = f"{missed} log lines were dropped here: stderr was not read fast enough"
        return [self._encode("warn", self._clock(), "log", text, {"dropped": missed}) + b"\n"]

    def close(self, timeout_ms: int = 1000) -> None:
        """Write what is queued, for at most `timeout_ms`. Also called when Python exits."""
        if self._writer.is_alive():
            self._queue.put(None)
            self._writer.join(timeout_ms / 1000)
        super().close()


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - logging must not raise
        return f"{_text(record.msg)} {_text(record.args)}"


def _is_news(record: logging.LogRecord) -> bool:
    """Not that an answer met nobody any more: its caller has gone, and knows it."""
    return "ExecuteBatchError" not in record.getMessage()
