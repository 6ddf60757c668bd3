"""The numbers of the schema, which a released version makes permanent.

``schema.lock`` lists every field and enum value of ``proto/warren/v1`` ever given out. ``compare``
says what a schema does to them that an older peer, log or snapshot would not survive.

    python -m tests.contract.schema      adds new fields to schema.lock; refuses what is no addition
"""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf import descriptor_pb2

from warren_build import stubs

LOCK = Path(__file__).with_name("schema.lock")

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {value: name.removeprefix("TYPE_").lower() for name, value in _FIELD.Type.items()}

#: ``message.field`` or ``enum.VALUE`` → (number, type).
Numbers = dict[str, tuple[int, str]]


def current() -> tuple[Numbers, dict[str, set[int]]]:
    """The schema as it is: its numbers, and for each message or enum the reserved ones."""
    files = descriptor_pb2.FileDescriptorSet.FromString(stubs.descriptor_set())
    return extract(files)


def extract(
    files: descriptor_pb2.FileDescriptorSet,
) -> tuple[Numbers, dict[str, set[int]]]:
    """Numbers and reservations of the messages and enums in package ``warren``."""
    numbers: Numbers = {}
    reserved: dict[str, set[int]] = {}
    for file in files.file:
        if file.package.split(".")[0] == "warren":
            for enum in file.enum_type:
                _enum(enum, file.package, numbers, reserved)
            for message in file.message_type:
                _message(message, file.package, numbers, reserved)
    return numbers, reserved


def _message(
    message: descriptor_pb2.DescriptorProto,
    scope: str,
    numbers: Numbers,
    reserved: dict[str, set[int]],
) -> None:
    name = f"{scope}.{message.name}"
    reserved[name] = {n for r in message.reserved_range for n in range(r.start, min(r.end, 2**16))}
    for field in message.field:
        numbers[f"{name}.{field.name}"] = (field.number, _type(field))
    for enum in message.enum_type:
        _enum(enum, name, numbers, reserved)
    for nested in message.nested_type:
        _message(nested, name, numbers, reserved)


def _enum(
    enum: descriptor_pb2.EnumDescriptorProto,
    scope: str,
    numbers: Numbers,
    reserved: dict[str, set[int]],
) -> None:
    name = f"{scope}.{enum.name}"
    reserved[name] = {n for r in enum.reserved_range for n in range(r.start, r.end + 1)}
    for value in enum.value:
        numbers[f"{name}.{value.name}"] = (value.number, "value")


def _type(field: descriptor_pb2.FieldDescriptorProto) -> str:
    kind = field.type_name.lstrip(".") or _TYPES[field.type]
    return f"repeated {kind}" if field.label == _FIELD.LABEL_REPEATED else kind


def compare(locked: Numbers, now: Numbers, reserved: dict[str, set[int]]) -> list[str]:
    """What makes ``now`` incompatible with ``locked``, one sentence each."""
    problems = []
    held = {(_owner(name), number): name for name, (number, _) in locked.items()}
    for name, (number, kind) in sorted(locked.items()):
        if name in now:
            if now[name] != (number, kind):
                problems.append(
                    f"{name} was {number}: {kind} and is {now[name][0]}: {now[name][1]}; "
                    f"give the new meaning a new name and number"
                )
        elif _owner(name) in reserved and number not in reserved[_owner(name)]:
            problems.append(f"{name} is gone; write `reserved {number};` in its place")
    for name, (number, _) in sorted(now.items()):
        former = held.get((_owner(name), number), name)
        if former != name and former not in now:
            problems.append(f"{name} uses number {number} again, which was {former}'s")
    return problems


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def parse(text: str) -> Numbers:
    """Reads a lock file: lines of ``name = number: type``."""
    numbers: Numbers = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, rest = line.split(" = ")
            number, kind = rest.split(": ")
            numbers[name] = (int(number), kind)
    return numbers


def render(numbers: Numbers) -> str:
    """Writes a lock file, by message and number."""
    head = "# Every number that proto/warren/v1 ever gave out. See tests/contract/schema.py.\n"
    order = sorted(numbers.items(), key=lambda item: (_owner(item[0]), item[1][0], item[0]))
    return head + "".join(f"{name} = {number}: {kind}\n" for name, (number, kind) in order)


def main() -> None:
    """Adds what is new to the lock file."""
    locked = parse(LOCK.read_text()) if LOCK.exists() else {}
    now, reserved = current()
    problems = compare(locked, now, reserved)
    if problems:
        sys.exit("schema.lock is unchanged:\n" + "\n".join(problems))
    LOCK.write_text(render(locked | now))
    print(f"schema.lock: {len(now.keys() - locked.keys())} added, {len(locked | now)} in all")


if __name__ == "__main__":
    main()
