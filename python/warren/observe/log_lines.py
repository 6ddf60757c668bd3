"""How one log line looks: as JSON, for people, or in journald's fields. Pure.

A line is bounded, and none of these raises, whatever was logged.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

__all__ = [
    "CORRELATING",
    "LEVELS",
    "LINE_BYTES_MAX",
    "Encoder",
    "bounded_text",
    "encode_console",
    "encode_journal",
    "encode_json",
    "level_name",
    "level_number",
]

LINE_BYTES_MAX: Final = 16 * 1024
# A character takes at most seven bytes of JSON, so one text alone never makes a line too long.
TEXT_CHARS_MAX: Final = 2048
COMPONENT_CHARS_MAX: Final = 64
# Of what is kept of an oversized line: names and ids are shorter, and of an error the beginning.
KEPT_CHARS_MAX: Final = 256

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
"""The level names of the log, as configured and as written. The core's `trace` counts as debug."""

CORRELATING: Final = (
    "service_name",
    "service_id",
    "container_id",
    "node_id",
    "volume_name",
    "method",
    "operation",
    "request_id",
)
"""Fields by which lines are found that belong together."""

_NAMES: Final = {number: name for name, number in LEVELS.items()}
_OWN_KEYS: Final = frozenset({"level", "time", "component", "message"})
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

# As syslog numbers them (RFC 5424, 6.2.1).
_PRIORITIES: Final = {"debug": b"7", "info": b"6", "warn": b"4", "error": b"3", "fatal": b"2"}
_IDENTIFIER: Final = b"warrend"
# journald's own bound of a field's name.
_FIELD_NAME_CHARS_MAX: Final = 64
_NOT_OF_A_NAME: Final = re.compile(r"[^A-Z0-9_]")
_JOURNAL_OWN: Final = frozenset(
    {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "LEVEL", "TIME", "COMPONENT"}
)

Encoder = Callable[[str, float, str, str, Mapping[str, object]], bytes]
"""Of level, seconds since the epoch, component, message and fields."""


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

    `seconds` is since the epoch. Values that JSON cannot hold are written as their text. Of a line
    that would be longer, message, CORRELATING and `error` are kept, cut; `truncated` says so.
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
        line = msgspec.json.encode(record, enc_hook=bounded_text)
    except Exception:  # noqa: BLE001 - logging must not raise
        line = msgspec.json.encode(
            {bounded_text(key): bounded_text(value) for key, value in record.items()}
        )
    if len(line) <= LINE_BYTES_MAX:
        return line
    own["message"] = bounded_text(message)
    own["component"] = bounded_text(component)[:COMPONENT_CHARS_MAX]
    own["truncated"] = True
    line = msgspec.json.encode(own)
    for key in (*CORRELATING, "error"):
        if key in fields:
            more = own | {key: bounded_text(fields[key])[:KEPT_CHARS_MAX]}
            longer = msgspec.json.encode(more)
            if len(longer) <= LINE_BYTES_MAX:
                own, line = more, longer
    return line


def encode_console(
    level: str, seconds: float, component: str, message: str, fields: Mapping[str, object]
) -> bytes:
    """One line for people: time of day, level, component, message, `key=value` pairs."""
    clock = _timestamp(seconds)[11:23]
    return _for_people(f"{clock} {level.upper():5} {component:10} {message}", fields)


def encode_journal(
    level: str, seconds: float, component: str, message: str, fields: Mapping[str, object]
) -> bytes:
    """One entry of journald's native protocol, never over LINE_BYTES_MAX.

    Names are upper case. MESSAGE has the component and the fields too: it is all that `journalctl`
    shows unless told otherwise. Fields that have no room are left out, and TRUNCATED says so.
    Format: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/; each value in the form with a length,
    which takes any byte.
    """
    shown = bounded_text(component)[:COMPONENT_CHARS_MAX]
    own = {
        "MESSAGE": _for_people(f"{shown}: {bounded_text(message)}", fields)[: LINE_BYTES_MAX // 2],
        "PRIORITY": _PRIORITIES[level],
        "SYSLOG_IDENTIFIER": _IDENTIFIER,
        "LEVEL": level.encode(),
        "TIME": _timestamp(seconds).encode(),
        "COMPONENT": shown.encode("utf-8", "backslashreplace"),
    }
    entry = b"".join(_journal_field(name, value) for name, value in own.items())
    cut = _journal_field("TRUNCATED", b"1")
    for name, value in _journal_pairs(fields):
        if name in _JOURNAL_OWN:
            name += "_"
        field = _journal_field(name, value)
        if len(entry) + len(field) + len(cut) > LINE_BYTES_MAX:
            return entry + cut
        entry += field
    return entry


def _journal_pairs(fields: Mapping[str, object]) -> Iterator[tuple[str, bytes]]:
    for key, value in fields.items():
        # What begins with an underscore is journald's own to say; a digit may not begin a name.
        name = _NOT_OF_A_NAME.sub("_", bounded_text(key).upper()).lstrip("_0123456789")
        if name:
            yield name[: _FIELD_NAME_CHARS_MAX - 1], bounded_text(value).encode("utf-8", "replace")


def _journal_field(name: str, value: bytes) -> bytes:
    return b"%s\n%s%s\n" % (name.encode("ascii"), struct.pack("<Q", len(value)), value)


def _for_people(text: str, fields: Mapping[str, object]) -> bytes:
    pairs = "".join(f" {key}={_quoted(bounded_text(value))}" for key, value in fields.items())
    escaped = _CONTROL.sub(_escaped, text + pairs)
    return escaped.encode("utf-8", "backslashreplace")[:LINE_BYTES_MAX]


def _timestamp(seconds: float) -> str:
    when = datetime.fromtimestamp(seconds, UTC)
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def bounded_text(value: object) -> str:
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
