"""The log levels of this daemon, as the node's own service tells and changes them."""

from __future__ import annotations

from typing import Protocol

from warren.errors import WarrenError
from warren.observe.log_levels import LevelRow, UnknownError
from warren.pb.v1 import node_pb2

__all__ = ["LogLevels", "change", "tell"]


class LogLevels(Protocol):
    """What has the levels: the log's pipeline."""

    @property
    def configured_level(self) -> str:
        """The level where nothing else was asked for."""

    def level_rows(self) -> list[LevelRow]:
        """The level of each component, `all` first."""

    def set_component_level(self, component: str, level: str, for_s: float = 0.0) -> None:
        """Change one. Raises UnknownError."""


def tell(levels: LogLevels) -> node_pb2.GetLogLevelsResponse:
    """From which level on each component logs."""
    return node_pb2.GetLogLevelsResponse(configured=levels.configured_level, levels=_rows(levels))


def change(levels: LogLevels, request: node_pb2.SetLogLevelRequest) -> node_pb2.SetLogLevelResponse:
    """Do as asked, and tell how it is then. Raises WarrenError `invalid`."""
    try:
        levels.set_component_level(request.component, request.level, request.for_ms / 1000)
    except UnknownError as error:
        raise WarrenError("invalid", str(error)) from None
    return node_pb2.SetLogLevelResponse(configured=levels.configured_level, levels=_rows(levels))


def _rows(levels: LogLevels) -> list[node_pb2.LogLevel]:
    return [
        node_pb2.LogLevel(
            component=row.component,
            level=row.level,
            changed=row.changed,
            remaining_ms=round(row.remaining_s * 1000),
        )
        for row in levels.level_rows()
    ]
