"""A value that must not be shown."""

from __future__ import annotations

import hmac
from typing import Final, NoReturn, final

REDACTED: Final = "[redacted]"


@final
class Secret:
    """Holds a secret, token or key so that printing, formatting or logging it shows
    `[redacted]`, and encoding or pickling it by accident fails. `reveal` gives the value.
    """

    __slots__ = ("_value",)

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: str | bytes) -> None:
        self._value = value

    def reveal(self) -> str | bytes:
        """The value itself. Do not log, format or keep what this gives."""
        return self._value

    def __repr__(self) -> str:
        return REDACTED

    def __str__(self) -> str:
        return REDACTED

    def __format__(self, spec: str) -> str:
        return REDACTED

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret) or type(self._value) is not type(other._value):
            return NotImplemented
        return hmac.compare_digest(_as_bytes(self._value), _as_bytes(other._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied: pass the object itself")


def _as_bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
