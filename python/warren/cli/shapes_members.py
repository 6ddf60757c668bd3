"""Of `warren.cli.shapes`, the one that other files of shapes need: a member of consensus."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["MemberView"]


class MemberView(Struct, frozen=True):
    id: str
    node_id: str
    node: str | None
    role: str
    wanted: str
    address: str
    api_address: str | None
    lag: int | None
    active: bool | None
    release: str | None
    added_at: str | None
