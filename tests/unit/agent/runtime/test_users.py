"""Who a container runs as, from the text of its files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.agent.runtime.base import RuntimeRefused
from warren.agent.runtime.containerd.users import Identity, resolve, without_files

PASSWD = """root:x:0:0:root:/root:/bin/sh
# a comment
web:x:1001:1002:web:/srv:/bin/sh
broken:x:many:1:x:/:/
homeless:x:7:8::
"""
GROUP = "root:x:0:\nweb:x:1002:\nlogs:x:1003:root,web\nadm:x:4:web\nbad:x:no:web\n"


@pytest.mark.parametrize(
    ("user", "identity"),
    [
        ("", Identity()),
        ("0", Identity()),
        ("1000:2000", Identity(1000, 2000, (), "/")),
        ("web", Identity(1001, 1002, (4, 1003), "/srv")),
        ("1001", Identity(1001, 1002, (4, 1003), "/srv")),
        ("web:logs", Identity(1001, 1003, (), "/srv")),
        ("web:55", Identity(1001, 55, (), "/srv")),
        ("4242", Identity(4242, 0, (), "/")),
        ("4242:logs", Identity(4242, 1003, (), "/")),
        ("root", Identity(0, 0, (1003,), "/root")),
        ("homeless", Identity(7, 8, (), "/")),
    ],
)
def test_resolve(user: str, identity: Identity) -> None:
    assert resolve(user, PASSWD, GROUP) == identity


@pytest.mark.parametrize(
    "user", ["nobody", "web:nobody", "broken", "99999999999", "1:4294967295", "9" * 5000, ":0"]
)
def test_what_is_refused(user: str) -> None:
    with pytest.raises(RuntimeRefused) as refusal:
        resolve(user, PASSWD, GROUP)
    assert refusal.value.permanent
    assert len(refusal.value.message) < 300


def test_which_users_need_no_files() -> None:
    assert all(without_files(user) is not None for user in ("", "0", "0:0", "12:34"))
    assert all(without_files(user) is None for user in ("web", "12", "12:web", "root", "web:12"))


@given(st.text(max_size=30), st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_answered(user: str, passwd: str, group: str) -> None:
    try:
        identity = resolve(user, passwd, group)
    except RuntimeRefused:
        return
    assert 0 <= identity.uid < 2**31
    assert 0 <= identity.gid < 2**31
