"""`docs/metrics.md`, made from what daemons really export: name, type, labels, meaning, a query.

`make metrics-audit` compares them, `make metrics-audit BLESS=1` writes the page anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/metrics.md"

_HEAD = """# Metrics

What a daemon exports at `/metrics` on its metrics address (`metrics_addr`, 127.0.0.1:9090
unless it is configured), in Prometheus' text format or, for those who ask for it, as OpenMetrics
with exemplars; compressed for those who ask for gzip. This page is made from what the daemons of
a cluster really exported (`make metrics-audit` compares them): names, types and labels are a
contract.

- Series are there from the first scrape with zeros, once what they are about exists: a host
  without a cluster has none of Raft's, one that runs no containers has none of containers'.
- Label values are bounded. Of a histogram with labels, at most 4,096 combinations have series of
  their own; of containers, 4,096 on a host; what more there are is counted under `other`.
- `peer` is the id of a member, as `warrenctl cluster members` shows it beside its name.
- Histograms have Prometheus' classic buckets, 5 ms to 10 s; with `metrics_buckets = "fine"` in the
  configuration also those from 1 us.
- Gauges of what the leader decides are 0 on other managers: use `max` or `sum` over them.

| name | type | labels | meaning | for example |
|---|---|---|---|---|
"""
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\]|\\.)*"')


@dataclass
class Family:
    """One metric. `labels` without a histogram's `le`, as far as any sample has them."""

    name: str
    documentation: str = ""
    kind: str = ""
    labels: dict[str, None] = field(default_factory=dict)


def families(texts: Iterable[str]) -> dict[str, Family]:
    """All metrics of some scrapes, by name. ValueError where two of them differ in kind."""
    found: dict[str, Family] = {}
    for text in texts:
        family = Family("")
        for line in text.splitlines():
            if line.startswith("# HELP "):
                name, _, documentation = line.removeprefix("# HELP ").partition(" ")
                family = found.setdefault(name, Family(name))
                family.documentation = documentation
            elif line.startswith("# TYPE "):
                name, kind = line.removeprefix("# TYPE ").split()
                if found[name].kind not in ("", kind):
                    raise ValueError(f"{name} is a {kind} here and a {found[name].kind} there")
                found[name].kind = kind
            elif sample := _SAMPLE.fullmatch(line):
                labels = _LABEL.findall(sample[2] or "")
                family.labels |= dict.fromkeys(label for label in labels if label != "le")
    return found


def documented() -> set[str]:
    """The names on the page as it is written."""
    return set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))


def page(found: dict[str, Family]) -> str:
    """The page's text."""
    return _HEAD + "".join(_row(found[name]) for name in sorted(found))


def _row(family: Family) -> str:
    labels = ", ".join(family.labels)
    query = _query(family).replace("|", r"\|")
    cells = (f"`{family.name}`", family.kind, labels, family.documentation, f"`{query}`")
    return "".join(f"| {cell} " for cell in cells) + "|\n"


def _query(family: Family) -> str:
    by = ", ".join(family.labels)
    if family.kind == "histogram":
        of = f"{family.name}_bucket[5m]"
        return (
            f"histogram_quantile(0.99, sum by ({', '.join(['le', *family.labels])}) (rate({of})))"
        )
    if family.kind == "counter":
        rate = f"rate({family.name}[5m])"
        return f"sum by ({by}) ({rate})" if by else f"sum({rate})"
    return f"sum by ({by}) ({family.name})" if by else family.name


def differences(texts: Iterable[str]) -> list[str]:
    """Lines of the page that are not so (`-`), and what is missing on it (`+`)."""
    made = page(families(texts))
    if os.environ.get("WARREN_BLESS") == "1":
        PAGE.write_text(made)
    written = PAGE.read_text() if PAGE.exists() else ""
    if made == written:
        return []
    is_, was = made.splitlines(), written.splitlines()
    return [f"- {line}" for line in was if line not in is_] + [
        f"+ {line}" for line in is_ if line not in was
    ]
