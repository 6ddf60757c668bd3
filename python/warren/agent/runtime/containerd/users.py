"""Who a container's process runs as. Pure: `/etc/passwd` and `/etc/group` come as text.

The words are Docker's: ``user``, ``uid``, either with ``:group`` or ``:gid``; empty is root.
"""

from __future__ import annotations

from typing import Final

import msgspec

from warren.agent.runtime.base import RuntimeRefused

_ID_MAX: Final = 2**31 - 1


class Identity(msgspec.Struct, frozen=True):
    """Numeric ids of a process, its supplementary groups, and its home directory."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    home: str = "/root"


def without_files(user: str) -> Identity | None:
    """The identity, where ``user`` alone decides it; None where the image's files are needed."""
    if user in ("", "0", "0:0"):
        return Identity()
    name, colon, group = user.partition(":")
    if colon and name.isdecimal() and group.isdecimal():
        uid, gid = _number(user, name), _number(user, group)
        return Identity(uid, gid, (), "/root" if uid == 0 else "/")
    return None


def resolve(user: str, passwd: str, group: str) -> Identity:
    """The identity that ``user`` names in an image with these files (empty where it has none).

    Raises ``RuntimeRefused`` (permanent) for a name that the files do not have. A uid that they
    do not have is used as it is, with gid 0.
    """
    decided = without_files(user)
    if decided is not None:
        return decided
    user_name, _, group_name = user.partition(":")
    found = _user(user, user_name, passwd)
    if group_name:
        return msgspec.structs.replace(found[1], gid=_gid(user, group_name, group))
    name, identity = found
    gids = {
        int(fields[2])
        for fields in _records(group, 4)
        if fields[2].isdecimal() and name and name in fields[3].split(",")
    }
    return msgspec.structs.replace(identity, additional_gids=tuple(sorted(gids - {identity.gid})))


def _user(user: str, wanted: str, passwd: str) -> tuple[str, Identity]:
    for fields in _records(passwd, 6):
        numeric = fields[2].isdecimal() and fields[3].isdecimal()
        if numeric and wanted in (fields[0], fields[2]):
            uid, gid = _number(user, fields[2]), _number(user, fields[3])
            return fields[0], Identity(uid, gid, (), fields[5] or "/")
    if wanted.isdecimal():
        return "", Identity(_number(user, wanted), 0, (), "/")
    raise RuntimeRefused(
        f'the image has no user "{wanted}" in /etc/passwd; give one that it has, or a number',
        permanent=True,
    )


def _gid(user: str, wanted: str, group: str) -> int:
    if wanted.isdecimal():
        return _number(user, wanted)
    for fields in _records(group, 4):
        if fields[0] == wanted and fields[2].isdecimal():
            return _number(user, fields[2])
    raise RuntimeRefused(
        f'the image has no group "{wanted}" in /etc/group; give one that it has, or a number',
        permanent=True,
    )


def _records(text: str, fields_min: int) -> list[list[str]]:
    records = (line.strip().split(":") for line in text.splitlines())
    return [fields for fields in records if len(fields) >= fields_min]


def _number(user: str, digits: str) -> int:
    # int() refuses absurdly long digit strings by itself, with a traceback's wording.
    if len(digits) > 10 or int(digits) > _ID_MAX:
        raise RuntimeRefused(
            f'the user "{user[:80]}" has an id above {_ID_MAX}; give a smaller one', permanent=True
        )
    return int(digits)
