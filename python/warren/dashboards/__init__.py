"""The dashboards for Grafana: what they show, as data, and the JSON that is made of it.

`cluster`, `managers`, `workers` and `services` describe; `model` has the words in which they do;
`grafana` turns a description into what Grafana imports. The same files stand in deploy/grafana.

Importing this package imports none of that: the command line asks for names alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from warren.dashboards.model import Dashboard

__all__ = ["NAMES", "described"]

NAMES: Final = ("cluster", "managers", "workers", "services")
"""In the order in which one goes from a symptom to its place."""


def described(name: str) -> Dashboard:
    """The description of one of `NAMES`."""
    found: Dashboard = import_module(f"warren.dashboards.{name}").DASHBOARD
    return found
