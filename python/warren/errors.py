"""The one exception that carries a refusal through the Python side.

A refusal has a stable code and a sentence that says what is wrong and what to do next. The codes
of the core are enumerated in Rust; `PYTHON_CODES` are those that only the Python edges raise.
"""

from __future__ import annotations

from typing import Final

__all__ = ["PASSING", "PYTHON_CODES", "StartupError", "WarrenError"]

PASSING: Final = frozenset(
    {
        *("unavailable", "no_answer", "no_leader", "not_leader", "handing_over"),
        *("no_quorum", "outcome_unknown", "overloaded", "shutting_down"),
    }
)
"""Codes of what a call meets while managers, or the way to them, are away for a moment."""

PYTHON_CODES: Final[frozenset[str]] = frozenset(
    {
        "answer_too_large",  # more than fits into one: a list of very much
        "archive_invalid",  # an image archive that cannot be read
        "image_in_use",  # removing an image that containers use
        "internal",  # a fault of ours; the daemon's log has the details
        "no_answer",  # to a read, in time
        "runtime_unavailable",  # containerd does not answer
        "unavailable",  # no daemon, or no connection to it
        "worker_only",  # this host is no manager; ask one
    }
)


class WarrenError(Exception):
    """A refusal: `code` is for programs and stable, `message` is a sentence for people.

    `leader_address`: of `not_leader`, the API of the manager that leads; empty where not known.
    `request_id`: by what name the request that was refused stands in logs; empty: it was not sent.
    """

    __slots__ = ("code", "leader_address", "message", "request_id")

    def __init__(self, code: str, message: str, leader_address: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.leader_address = leader_address
        self.request_id = ""

    def __str__(self) -> str:
        return self.message

    def worded(self, message: str) -> WarrenError:
        """The same refusal with another sentence."""
        other = WarrenError(self.code, message, self.leader_address)
        other.request_id = self.request_id
        return other


class StartupError(Exception):
    """Why the daemon cannot start; printed as it is, without a traceback.

    `exit_code`: 1 the host is not as needed (a taken port, an unwritable directory),
    2 the configuration is wrong.
    """

    __slots__ = ("exit_code",)

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
