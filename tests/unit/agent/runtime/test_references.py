"""Names of images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.agent.runtime.containerd.references import normalise

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("given_name", "full"),
    [
        ("web", "docker.io/library/web:latest"),
        ("web:1.0", "docker.io/library/web:1.0"),
        ("team/web", "docker.io/team/web:latest"),
        ("docker.io/web", "docker.io/library/web:latest"),
        ("localhost/web", "localhost/web:latest"),
        ("registry:5000/web:2", "registry:5000/web:2"),
        ("ghcr.io/a/b/c:x_Y.z-1", "ghcr.io/a/b/c:x_Y.z-1"),
        (f"web@{DIGEST}", f"docker.io/library/web@{DIGEST}"),
        (f"web:1@{DIGEST}", f"docker.io/library/web:1@{DIGEST}"),
        ("a__b/c-d.e", "docker.io/a__b/c-d.e:latest"),
    ],
)
def test_normalise(given_name: str, full: str) -> None:
    assert normalise(given_name) == full
    assert normalise(full) == full


@pytest.mark.parametrize(
    "name",
    [
        *("", ":", "/", "Web", "web:", "web:a b", "web@sha256:12", "web@md5:" + "a" * 32, "a//b"),
        *("-web", "web-", "we..b", "web:" + "t" * 129, "x" * 300, "web\n", "räksmörgås", "a/B"),
        *("http://web", "/etc/passwd", "../web"),
    ],
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError):
        normalise(name)


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(name: str) -> None:
    try:
        full = normalise(name)
    except ValueError:
        return
    assert normalise(full) == full
