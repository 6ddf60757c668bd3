"""Services in a YAML file: the flags of `service create`, by their names.

Each entry is turned into those flags and read by the same command, so that a file can say what a
command line can, in the same words, and no more.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from warren.pb.v1 import objects_pb2

__all__ = ["read"]

_SERVICES_MAX: Final = 256
_FILE_BYTES_MAX: Final = 1 << 20
# Of the command line, not of a service.
_NOT_OF_A_SERVICE: Final = frozenset(
    {"detach", "plan", "host", "format", "timeout", "tls-ca", "tls-cert", "tls-key", "help"}
)


def read(name: str) -> list[objects_pb2.ServiceSpec]:
    """The services of a file; `-` is standard input. Raises click.UsageError with a sentence."""
    import yaml

    try:
        text = _text(name)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise click.UsageError(f"{name} is no YAML: {_sentence(error)}") from None
    if isinstance(content, dict) and set(content) == {"services"}:
        content = content["services"]
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list) or not content:
        raise click.UsageError(f"{name} holds no list of services: write `- name: web`, and so on")
    if len(content) > _SERVICES_MAX:
        raise click.UsageError(f"{name} has more than {_SERVICES_MAX} services; divide it")
    return [_service(entry, f"{name}, service {n}") for n, entry in enumerate(content, 1)]


def _text(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise click.UsageError(f"cannot read {name}: {error.strerror}") from None
    if len(data) > _FILE_BYTES_MAX:
        raise click.UsageError(f"{name} is larger than {_FILE_BYTES_MAX >> 20} MiB; divide it")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise click.UsageError(f"{name} is not UTF-8 text") from None


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())


def _service(entry: Any, where: str) -> objects_pb2.ServiceSpec:
    from warren.cli import service_changes

    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise click.UsageError(f"{where} has no name: write `name: web`")
    where = f"{where} ({entry['name']})"
    words, command = _words(entry, where)
    arguments = [*words, "--", entry["name"], *command]
    try:
        with service_changes.create.make_context("create", arguments) as context:
            given = dict(context.params)
        for name in ("detach", "plan", "name_flag"):
            given.pop(name)
        return service_changes.spec_of(given.pop("name"), given.pop("command"), given)
    except click.UsageError as error:
        raise click.UsageError(f"{where}: {error.format_message()}") from None


def _words(entry: dict[Any, Any], where: str) -> tuple[list[str], list[str]]:
    """The entry as words of a command line, and the command that its containers run."""
    words: list[str] = []
    command: list[str] = []
    for key, value in entry.items():
        if key == "name":
            continue
        if key == "command":
            command = [str(each) for each in (value if isinstance(value, list) else [value])]
            continue
        if (
            not isinstance(key, str)
            or key in _NOT_OF_A_SERVICE
            or not key.replace("-", "").isalnum()
        ):
            raise click.UsageError(f"{where}: a service has no `{key}`")
        words += _flag(key, value, where)
    return words, command


def _flag(key: str, value: Any, where: str) -> Iterator[str]:
    if isinstance(value, bool):
        yield f"--{key}" if value else f"--no-{key}"
    elif isinstance(value, dict):
        yield from (f"--{key}={name}={_scalar(each, key, where)}" for name, each in value.items())
    elif isinstance(value, list):
        yield from (f"--{key}={_scalar(each, key, where)}" for each in value)
    elif value is not None:
        yield f"--{key}={_scalar(value, key, where)}"


def _scalar(value: Any, key: str, where: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise click.UsageError(
        f"{where}: `{key}` is neither text nor a number; write it as the flag has it"
    )
