"""Names of images, as Docker and containerd write them in full. Pure.

``registry/repository:tag``; without a registry it is docker.io, without a path there
``library/``, without a tag ``latest``. Source: the reference grammar of the distribution spec.
"""

from __future__ import annotations

import re
from typing import Final

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN_PART: Final = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN: Final = re.compile(rf"{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*(?::[0-9]+)?")
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")

NAME_LENGTH_MAX: Final = 255


def normalise(reference: str) -> str:
    """The full name. Raises ValueError with a sentence if it is not a name of an image."""
    rest, at, digest = reference.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ValueError(f'"{_shown(reference)}" has a malformed digest after @')
    slash = rest.rfind("/")
    name, colon, tag = rest[slash + 1 :].partition(":")
    path = rest[: slash + 1] + name
    if colon and not _TAG.fullmatch(tag):
        raise ValueError(f'"{_shown(reference)}" has a malformed tag after the colon')
    first, slash_found, remainder = path.partition("/")
    if slash_found and ("." in first or ":" in first or first == "localhost"):
        domain, path = first, remainder
    else:
        domain = "docker.io"
    if domain == "docker.io" and "/" not in path:
        path = f"library/{path}"
    if not _DOMAIN.fullmatch(domain) or not _PATH.fullmatch(path):
        raise ValueError(
            f'"{_shown(reference)}" is no name of an image; write it like web:1.0 or '
            "registry.example.com/team/web:1.0, in lower case"
        )
    if len(domain) + len(path) > NAME_LENGTH_MAX:
        raise ValueError(f"the name of an image is at most {NAME_LENGTH_MAX} characters long")
    if not colon and not at:
        tag = "latest"
    return f"{domain}/{path}" + (f":{tag}" if tag else "") + (f"@{digest}" if at else "")


def is_tag(word: str) -> bool:
    """Whether ``word`` could be a tag alone, without the name before it."""
    return _TAG.fullmatch(word) is not None


def _shown(reference: str) -> str:
    return reference if len(reference) <= 80 else reference[:77] + "…"
