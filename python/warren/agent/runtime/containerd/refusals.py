"""containerd's and runc's words, turned into sentences for people. Pure.

runc says what went wrong only in text. The patterns are those of runc 1.0 to 1.3 (1.0 words a
missing command as ``starting container process caused: exec:``, later ones as ``unable to start
container process: exec:``), and a test holds them against the installed version.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from warren.agent.runtime.base import RuntimeRefused

Sentence = Callable[[re.Match[str]], str]

_PATTERNS: Final[list[tuple[re.Pattern[str], bool, Sentence]]] = [
    (
        re.compile(
            r'exec: "(?P<command>[^"]*)": (?:executable file not found in \$PATH'
            r"|stat [^:]*: no such file or directory)"
        ),
        False,
        lambda found: (
            f'the command "{found["command"]}" is not in the image; '
            "check the command, or give its full path"
        ),
    ),
    (
        re.compile(r'exec: "(?P<command>[^"]*)": (?:permission denied|is a directory)'),
        False,
        lambda found: (
            f'the command "{found["command"]}" cannot be executed in the image; '
            "it is no executable file, or the user may not run it"
        ),
    ),
    (
        re.compile(r'exec: "(?P<command>[^"]*)"?:? .*exec format error|exec format error'),
        False,
        lambda _: (
            "the command is not built for this host's processor, or is a script "
            "without a #! line; use an image for this architecture"
        ),
    ),
    (
        re.compile(r"error during container init: mkdir (?P<dir>[^:]+): (?P<why>not a directory)"),
        False,
        lambda found: (
            f'the working directory "{found["dir"]}" is {found["why"]} in the image; '
            "give another with --workdir"
        ),
    ),
    (
        re.compile(r"chdir to cwd \(\"(?P<dir>[^\"]*)\"\).*: (?P<why>[^:]+)$"),
        False,
        lambda found: (
            f'the working directory "{found["dir"]}" cannot be entered '
            f"({found['why']}); give another with --workdir"
        ),
    ),
    (
        re.compile(
            r'error mounting "(?P<source>[^"]*)" to rootfs at "(?P<target>[^"]*)": '
            r"(?P<why>.*)$",
            re.DOTALL,
        ),
        False,
        lambda found: (
            f"{found['source']} cannot be mounted at {found['target']}: "
            f"{found['why']}; check the mount"
        ),
    ),
    (
        re.compile(r"no space left on device"),
        False,
        lambda _: (
            "there is no space left on the node's disk; free some, "
            "for example with warrenctl image rm"
        ),
    ),
    (
        re.compile(
            r"cannot allocate memory|unable to set memory limit|minimum memory limit"
            r"|memory limit .*too low|container init was OOM-killed"
        ),
        False,
        lambda _: "the memory limit is too low to start the container; give it more",
    ),
]


def refused(details: str) -> RuntimeRefused:
    """The refusal that containerd's error text ``details`` means.

    None of these is permanent: the same text can come from a host that is being repaired.
    """
    # The shim appends the gRPC code that it does not know better.
    details = details.removesuffix(": unknown")
    for pattern, permanent, sentence in _PATTERNS:
        found = pattern.search(details)
        if found is not None:
            return RuntimeRefused(sentence(found), permanent=permanent)
    return RuntimeRefused(
        f"the container could not be started: {_core(details)}; "
        "the log of containerd has the details",
        permanent=False,
    )


def _core(details: str) -> str:
    """The text without the prefixes that every failure of runc has, and bounded."""
    text = " ".join(details.split())
    for prefix in (
        "failed to create shim task: ",
        "failed to create shim: ",
        "OCI runtime create failed: ",
        "OCI runtime start failed: ",
        "runc create failed: ",
        "container_linux.go:",
        "unable to start container process: ",
    ):
        text = text.removeprefix(prefix)
    return text if len(text) <= 400 else text[:397] + "…"
