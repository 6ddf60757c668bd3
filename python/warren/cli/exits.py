"""Exit codes: the one table from a refusal's stable code to what the shell sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = [
    "EXIT_ATTENTION",
    "EXIT_DENIED",
    "EXIT_EXISTS",
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_NOT_FOUND",
    "EXIT_OF_CODE",
    "EXIT_UNREACHABLE",
    "EXIT_USAGE",
    "EXIT_WAITS",
    "exit_of",
]

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_NOT_FOUND: Final = 4
EXIT_EXISTS: Final = 5
EXIT_DENIED: Final = 6
EXIT_WAITS: Final = 7  # of a plan: something would find no room
EXIT_ATTENTION: Final = 8  # looked at, and something needs attention
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it

EXIT_OF_CODE: Final[Mapping[str, int]] = {
    "already_in_cluster": EXIT_EXISTS,
    "ambiguous": EXIT_USAGE,
    "denied": EXIT_DENIED,
    "handing_over": EXIT_UNREACHABLE,
    "interrupted": EXIT_INTERRUPTED,
    "invalid": EXIT_USAGE,
    "name_taken": EXIT_EXISTS,
    "no_answer": EXIT_UNREACHABLE,
    "no_leader": EXIT_UNREACHABLE,
    "no_quorum": EXIT_UNREACHABLE,
    "not_found": EXIT_NOT_FOUND,
    "not_leader": EXIT_UNREACHABLE,
    "shutting_down": EXIT_UNREACHABLE,
    "too_large": EXIT_USAGE,
    "unavailable": EXIT_UNREACHABLE,
    "worker_only": EXIT_UNREACHABLE,
}
"""What is not here is EXIT_FAILED."""


def exit_of(code: str) -> int:
    """The exit code for a refusal's stable code."""
    return EXIT_OF_CODE.get(code, EXIT_FAILED)
