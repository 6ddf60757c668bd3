"""The schema compiles, its numbers are never given out twice, and its stubs import."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from tests.contract import schema
from warren_build import stubs

#: A schema that was released, for the comparisons.
LOCKED: schema.Numbers = {"w.A.x": (1, "uint64"), "w.A.y": (2, "string"), "w.E.ON": (1, "value")}


def test_numbers_are_compatible_with_everything_given_out() -> None:
    now, reserved = schema.current()
    locked = schema.parse(schema.LOCK.read_text())
    assert schema.compare(locked, now, reserved) == []


def test_every_number_is_locked() -> None:
    now, _ = schema.current()
    locked = schema.parse(schema.LOCK.read_text())
    new = sorted(now.keys() - locked.keys())
    assert new == [], "run `python -m tests.contract.schema` and commit schema.lock"


def test_the_lock_file_is_in_its_own_form() -> None:
    text = schema.LOCK.read_text()
    assert schema.render(schema.parse(text)) == text


@pytest.mark.parametrize(
    ("now", "reserved", "what"),
    [
        ({**LOCKED, "w.A.x": (3, "uint64")}, {}, "w.A.x was 1: uint64 and is 3: uint64"),
        ({**LOCKED, "w.A.x": (1, "string")}, {}, "w.A.x was 1: uint64 and is 1: string"),
        ({"w.A.x": (1, "uint64"), "w.E.ON": (1, "value")}, {"w.A": set()}, "write `reserved 2;`"),
        (
            {"w.A.x": (1, "uint64"), "w.A.z": (2, "string"), "w.E.ON": (1, "value")},
            {"w.A": {2}},
            "w.A.z uses number 2 again, which was w.A.y's",
        ),
    ],
)
def test_an_incompatible_schema_is_refused(
    now: schema.Numbers, reserved: dict[str, set[int]], what: str
) -> None:
    (found,) = schema.compare(LOCKED, now, reserved)
    assert what in found


@pytest.mark.parametrize(
    ("now", "reserved"),
    [
        (LOCKED, {}),
        ({**LOCKED, "w.A.z": (3, "bytes")}, {}),
        ({"w.A.x": (1, "uint64"), "w.E.ON": (1, "value")}, {"w.A": {2}}),
    ],
)
def test_a_compatible_schema_passes(now: schema.Numbers, reserved: dict[str, set[int]]) -> None:
    assert schema.compare(LOCKED, now, reserved) == []


@pytest.mark.parametrize("source", stubs.sources(), ids=lambda path: path.stem)
def test_stubs_live_under_warren_and_nowhere_else(source: Path) -> None:
    folder = source.relative_to(stubs.layout.PROTO).parent.as_posix()
    module = importlib.import_module(f"warren.pb.{stubs.PACKAGES[folder]}.{source.stem}_pb2")
    assert module.DESCRIPTOR.name == source.relative_to(stubs.layout.PROTO).as_posix()
    assert "containerd" not in sys.modules
    assert "warren.v1" not in sys.modules
