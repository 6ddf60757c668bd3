"""runc's words, in sentences. What the installed runc says is held by the integration tests."""

from __future__ import annotations

import pytest

from warren.agent.runtime.containerd.refusals import refused

CREATE = "failed to create shim task: OCI runtime create failed: runc create failed: "
START = CREATE + "unable to start container process: "
OLD = (
    "failed to create shim: OCI runtime create failed: container_linux.go:380: "
    "starting container process caused: "
)


@pytest.mark.parametrize(
    ("details", "words"),
    [
        (
            START + 'exec: "nope": executable file not found in $PATH: unknown',
            'the command "nope" is not in the image',
        ),
        (
            START + 'exec: "/no/such": stat /no/such: no such file or directory: unknown',
            'the command "/no/such" is not in the image',
        ),
        (
            OLD + 'exec: "nope": executable file not found in $PATH: unknown',
            'the command "nope" is not in the image',
        ),
        (START + 'exec: "/etc/x": permission denied: unknown', "cannot be executed"),
        (START + 'exec: "/etc": is a directory: unknown', "cannot be executed"),
        (START + "exec /bin/x: exec format error: unknown", "this host's processor"),
        (
            START
            + 'chdir to cwd ("/nowhere") set in config.json failed: permission denied: unknown',
            'the working directory "/nowhere" cannot be entered (permission denied)',
        ),
        (
            START + "error during container init: mkdir /etc/passwd: not a directory: unknown",
            'the working directory "/etc/passwd" is not a directory',
        ),
        (
            START + 'error during container init: error mounting "/src" to rootfs at "/dst": '
            "mount /src:/dst: not a directory: unknown",
            "/src cannot be mounted at /dst",
        ),
        ("write /x: no space left on device", "no space left"),
        (
            START + "error setting cgroup config for procHooks process: unable to set memory "
            "limit to 100000 (current usage: 2084864, peak usage: 2510848): unknown",
            "memory limit is too low",
        ),
    ],
)
def test_known_words(details: str, words: str) -> None:
    refusal = refused(details)
    assert words in refusal.message
    assert "runc" not in refusal.message
    assert not refusal.permanent


def test_unknown_words_are_shown_without_what_every_failure_has() -> None:
    refusal = refused(START + "the moon is full: unknown")
    assert refusal.message == (
        "the container could not be started: the moon is full; "
        "the log of containerd has the details"
    )


def test_long_words_are_cut() -> None:
    assert len(refused("x" * 100_000).message) < 500
