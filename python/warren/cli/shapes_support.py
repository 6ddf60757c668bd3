"""Of `warren.cli.shapes`, those of `doctor`, `debug` and `dashboard export`."""

from __future__ import annotations

from msgspec import Struct

__all__ = [
    "BundleEntry",
    "BundleView",
    "CheckView",
    "DashboardView",
    "DoctorReport",
    "LogLevelView",
    "LogLevelsView",
]


class CheckView(Struct, frozen=True):
    name: str
    status: str
    found: str
    advice: str | None
    readings: dict[str, int | float | str | bool | None]


class DoctorReport(Struct, frozen=True):
    status: str
    version: str
    host: str
    time: str
    duration_ms: int
    ok: int
    warning: int
    failed: int
    skipped: int
    checks: list[CheckView]


class BundleEntry(Struct, frozen=True):
    name: str
    size_bytes: int


class BundleView(Struct, frozen=True):
    file: str
    size_bytes: int
    redacted: bool
    entries: list[BundleEntry]
    errors: list[str]


class DashboardView(Struct, frozen=True):
    name: str
    uid: str
    title: str
    file: str


class LogLevelView(Struct, frozen=True):
    component: str
    level: str
    changed: bool
    remaining_ms: int | None


class LogLevelsView(Struct, frozen=True):
    configured: str
    levels: list[LogLevelView]
