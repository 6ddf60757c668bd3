"""The clock: whether the kernel holds it to be synchronised, and how far it may be off."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Final

from warren.doctor.verdict import OK, SKIPPED, WARNING, Readings, Verdict

__all__ = ["Clock", "clock", "managers", "read_clock"]

_STA_UNSYNC: Final = 0x0040
_STA_NANO: Final = 0x2000
_TIME_ERROR: Final = 5
# The kernel lets the bound grow by 500 ppm while nobody disciplines the clock, and ends at 16 s.
_ERROR_WARN_MS: Final = 1_000.0
# As the alert has it.
_AHEAD_WARN_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Clock:
    """What adjtimex(2) says. `error_ms`: the largest error there may be, by the kernel's bound."""

    synchronised: bool
    offset_ms: float
    error_ms: float


def clock(found: Clock) -> Verdict:
    """Certificates and the times of events depend on it; consensus does not."""
    readings: Readings = {
        "synchronised": found.synchronised,
        "offset_ms": found.offset_ms,
        "error_ms": found.error_ms,
    }
    numbers = f"offset {found.offset_ms:.3f} ms, off by {found.error_ms:.0f} ms at most"
    if not found.synchronised:
        return Verdict(
            "clock",
            WARNING,
            "the kernel holds it to be unsynchronised",
            "run a time service: chrony, or timedatectl set-ntp true",
            readings,
        )
    if found.error_ms > _ERROR_WARN_MS:
        advice = "look whether the time service reaches its servers: chronyc tracking"
        return Verdict("clock", WARNING, f"synchronised; {numbers}", advice, readings)
    return Verdict("clock", OK, f"synchronised; {numbers}", "", readings)


def managers(ahead_s: float | None, error_s: float) -> Verdict:
    """How far it is from the leader's clock, by the daemon's heartbeats; None: not known."""
    if ahead_s is None:
        why = "the daemon has no heartbeat that a leader has acknowledged"
        return Verdict("clock.managers", SKIPPED, why)
    readings: Readings = {"ahead_seconds": ahead_s, "error_seconds": error_s}
    which = "ahead of" if ahead_s > 0 else "behind"
    words = f"{abs(ahead_s):.3f} s {which} the leader's, give or take {error_s:.3f} s"
    # What the way took may be all of the difference.
    if abs(ahead_s) - error_s > _AHEAD_WARN_S:
        advice = "run a time service on both: chrony, or timedatectl set-ntp true"
        return Verdict("clock.managers", WARNING, words, advice, readings)
    return Verdict("clock.managers", OK, words, "", readings)


class _Timex(ctypes.Structure):
    """struct timex of <sys/timex.h>; the kernel reserves eleven ints at its end."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", ctypes.c_long * 2),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("counts", ctypes.c_long * 4),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    )


def read_clock() -> Clock:
    """Reads, and changes nothing. Raises OSError where a sandbox forbids the call."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = _Timex()
    state = libc.adjtimex(ctypes.byref(found))
    if state < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"adjtimex: {os.strerror(code)}")
    per_ms = 1e6 if found.status & _STA_NANO else 1e3
    return Clock(
        synchronised=state != _TIME_ERROR and not found.status & _STA_UNSYNC,
        offset_ms=found.offset / per_ms,
        error_ms=found.maxerror / 1e3,
    )
