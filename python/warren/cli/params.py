"""A type of options: text that one of `warren.cli.parse`'s functions reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["Parsed"]


class Parsed(click.ParamType[object]):
    """An option whose text one of `warren.cli.parse`'s functions reads."""

    def __init__(self, name: str, read: Callable[[str], object]) -> None:
        self.name = name
        self._read = read

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
