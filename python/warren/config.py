"""The daemon's configuration: one key, four places, and which one won.

Every field of `Config` is a key of the TOML file, a flag (`--data-dir`) and an environment variable
(`WARREN_DATA_DIR`). A flag wins over the environment, that over the file, that over the default.
"""

from __future__ import annotations

import difflib
import json
import socket
import tomllib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from warren import amounts, node_limits
from warren.errors import StartupError
from warren.tls_files import Files

__all__ = [
    "DEFAULT_FILE",
    "KEYS",
    "Config",
    "Resolved",
    "advertised",
    "advertised_peer",
    "described",
    "env_name",
    "flag_name",
    "resolve",
    "tls_files",
]

DEFAULT_FILE: Final = Path("/etc/warren/warrend.toml")

_ADDRESS = r"^(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+):[0-9]{1,5}$"


def _text(description: str, expects: str = "text", pattern: str | None = None) -> msgspec.Meta:
    return msgspec.Meta(pattern=pattern, description=description, extra={"expects": expects})


def _path(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description, extra={"expects": "an absolute path"})


def _optional_path(description: str) -> msgspec.Meta:
    return _text(description, "an absolute path, or nothing", r"^$|^/[^\0]*$")


def _number(description: str, lowest: int, highest: int, step: int = 1) -> msgspec.Meta:
    expects = f"a whole number from {lowest:,} to {highest:,}"
    if step > 1:
        expects += f", a multiple of {step:,}"
    return msgspec.Meta(
        ge=lowest,
        le=highest,
        multiple_of=step,
        description=description,
        extra={"expects": expects},
    )


def _address(description: str) -> msgspec.Meta:
    return _text(description, "an address as host:port", _ADDRESS)


def _list(description: str, each: str) -> msgspec.Meta:
    expects = f"a list of texts, each {each} (as flag or variable: with commas between them)"
    return msgspec.Meta(description=description, extra={"expects": expects})


def _cpus(description: str) -> msgspec.Meta:
    return _text(description, "a text like 0.5, or nothing")


def _size(description: str) -> msgspec.Meta:
    return _text(description, "a text like 512m or 1.5g, or nothing")


def _hostname() -> str:
    return socket.gethostname().split(".")[0].lower() or "localhost"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What `warrend` runs with. Each field's meaning stands in its annotation."""

    data_dir: Annotated[Path, _path("where state and container logs are kept")] = Path(
        "/var/lib/warren"
    )
    socket: Annotated[Path, _path("Unix socket of the API")] = Path("/run/warren/warren.sock")
    socket_group: Annotated[str, _text("group that may use the socket")] = "warren"
    listen_addr: Annotated[
        str, _address("TCP address of the API; served only with certificates")
    ] = "0.0.0.0:2377"
    advertise_addr: Annotated[
        str,
        _text(
            "address other nodes reach this one at; empty: the host's own, with listen_addr's port",
            "an address as host:port, or nothing",
            rf"^$|{_ADDRESS}",
        ),
    ] = ""
    peer_addr: Annotated[
        str, _address("TCP address where other managers are heard; served only with certificates")
    ] = "0.0.0.0:2378"
    tls_ca: Annotated[str, _optional_path("certificates of the cluster's CA, PEM")] = ""
    tls_cert: Annotated[
        str, _optional_path("this node's certificate and its intermediates, PEM")
    ] = ""
    tls_key: Annotated[str, _optional_path("private key of that certificate, PEM")] = ""
    metrics_addr: Annotated[str, _address("HTTP address of /metrics, /live, /health, /ready")] = (
        "127.0.0.1:9090"
    )
    metrics_buckets: Annotated[
        Literal["classic", "fine"],
        _text(
            "buckets of histograms: classic from 5 ms, fine from 1 µs, with twice as many series",
            "one of classic, fine",
        ),
    ] = "classic"
    log_level: Annotated[
        Literal["debug", "info", "warn", "error"],
        _text("least severe records written", "one of debug, info, warn, error"),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        _text(
            "auto: console on a terminal, journald's fields under systemd, else json",
            "one of auto, json, console",
        ),
    ] = "auto"
    node_name: Annotated[
        str,
        _text(
            "name of this node; the host's name unless given",
            "a DNS label: at most 63 of a-z, 0-9 and -, not - at either end",
            r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
        ),
    ] = msgspec.field(default_factory=_hostname)
    labels: Annotated[
        dict[str, str],
        msgspec.Meta(
            description="labels of this node",
            extra={"expects": "a table of texts (as flag or variable: name=value,name=value)"},
        ),
    ] = msgspec.field(default_factory=dict)
    taints: Annotated[
        list[str],
        _list("taints of this node", "key=value:no-schedule or key=value:prefer-no-schedule"),
    ] = msgspec.field(default_factory=list)
    devices: Annotated[
        list[str],
        _list(
            "devices of this node that containers can ask for",
            "kind=count or kind=count:model, then any number of ,path=/dev/… and ,env=NAME",
        ),
    ] = msgspec.field(default_factory=list)
    volumes: Annotated[
        list[str],
        _list(
            "directories of this node that containers can mount by name",
            "name=/path or name=/path:ro",
        ),
    ] = msgspec.field(default_factory=list)
    reserved_cpus: Annotated[str, _cpus("CPUs that are kept for the system")] = ""
    reserved_memory: Annotated[str, _size("memory that is kept for the system")] = ""
    reserved_disk: Annotated[str, _size("disk that is kept for the system")] = ""
    capacity_cpus: Annotated[str, _cpus("CPUs of this node; empty: what the host has")] = ""
    capacity_memory: Annotated[str, _size("memory of this node; empty: what the host has")] = ""
    capacity_disk: Annotated[str, _size("disk of this node; empty: what the host has")] = ""
    containerd_address: Annotated[Path, _path("containerd's socket")] = Path(
        "/run/containerd/containerd.sock"
    )
    containerd_namespace: Annotated[
        str,
        _text(
            "containerd namespace that holds everything of this node",
            "at most 76 letters, digits, - and _, with a letter or digit at either end",
            r"^[A-Za-z0-9]([-_A-Za-z0-9]{0,74}[A-Za-z0-9])?$",
        ),
    ] = "warren"
    log_max_bytes: Annotated[
        int, _number("a container's log file is rotated at this size", 4096, 1 << 40)
    ] = 10 * 1024 * 1024
    log_max_files: Annotated[
        int, _number("log files kept per container, with the current one", 1, 100)
    ] = 5
    wal_segment_bytes: Annotated[
        int, _number("size of one preallocated segment of the log", 1 << 20, 1 << 30, 4096)
    ] = 64 * 1024 * 1024
    worker_concurrency: Annotated[
        int, _number("container operations under way at once", 1, 128)
    ] = 8


KEYS: Final[tuple[str, ...]] = Config.__struct_fields__
"""Every key, in the order of the documentation."""


class Resolved(msgspec.Struct, frozen=True):
    """A configuration and, for each key, the place its value came from, in words."""

    config: Config
    sources: dict[str, str]

    def rows(self) -> list[tuple[str, str, str]]:
        """Key, value as text, source; in the order of the keys."""
        return [(key, _shown(getattr(self.config, key)), self.sources[key]) for key in KEYS]

    def as_json(self) -> str:
        """The same as JSON: `{key: {"value": …, "source": …}}`."""
        plain = msgspec.to_builtins(self.config, enc_hook=str)
        return json.dumps(
            {key: {"value": plain[key], "source": self.sources[key]} for key in KEYS}, indent=2
        )

    def as_table(self) -> str:
        """The same as aligned columns."""
        rows = [("KEY", "VALUE", "SOURCE"), *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        return "\n".join(f"{k:<{widths[0]}}  {v:<{widths[1]}}  {s}" for k, v, s in rows)


def flag_name(key: str) -> str:
    """`data_dir` → `--data-dir`."""
    return "--" + key.replace("_", "-")


def env_name(key: str) -> str:
    """`data_dir` → `WARREN_DATA_DIR`."""
    return f"WARREN_{key.upper()}"


def described(key: str) -> tuple[str, str]:
    """What the key means, and what its value has to be."""
    meta = _annotation(key).__metadata__[0]
    return meta.description, meta.extra["expects"]


def resolve(
    flags: Mapping[str, str | None], env: Mapping[str, str], file: Path | None = None
) -> Resolved:
    """The configuration in force. `file` names one that must exist; else the default may.

    Raises StartupError (exit code 2) for an unknown key, a value that does not fit, or a file that
    cannot be read.
    """
    if file is None and env.get("WARREN_CONFIG"):
        file = Path(env["WARREN_CONFIG"])
    path = file or DEFAULT_FILE
    from_file = _read(path, required=file is not None)
    values: dict[str, Any] = {}
    sources = dict.fromkeys(KEYS, "default")
    for key in KEYS:
        places = (
            (from_file.get(key), f"file {path}"),
            (env.get(env_name(key)), f"environment {env_name(key)}"),
            (flags.get(key), f"flag {flag_name(key)}"),
        )
        for raw, source in places:
            if raw is not None:
                values[key] = _converted(key, raw, source)
                sources[key] = source
    return Resolved(Config(**values), sources)


def _read(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        loaded = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        raise StartupError(f"configuration file {path} does not exist", 2) from None
    except OSError as error:
        raise StartupError(f"cannot read configuration file {path}: {error.strerror}", 2) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartupError(f"configuration file {path} is not valid TOML: {error}", 2) from None
    for key in loaded:
        if key not in KEYS:
            raise StartupError(_unknown(key, path), 2)
    return loaded


def _unknown(key: str, path: Path) -> str:
    nearest = difflib.get_close_matches(key.replace("-", "_").lower(), KEYS, n=1, cutoff=0.5)
    hint = f"did you mean `{nearest[0]}`?" if nearest else f"known are: {', '.join(KEYS)}"
    return f"unknown key `{key}` in {path}; {hint}"


def _annotation(key: str) -> Any:
    return typing.get_type_hints(Config, include_extras=True)[key]


def _converted(key: str, raw: Any, source: str) -> Any:
    # Flags and variables are always text, so "8" has to pass for 8 there, but not in the file.
    lax = not source.startswith("file ")
    try:
        given = _split(key, raw) if lax else raw
        value = msgspec.convert(given, _annotation(key), strict=not lax, dec_hook=_path_from)
        if isinstance(value, str) and key.endswith("_addr") and value:
            _check_port(value)
        _check_words(key, value)
        refusal = node_limits.complaint(key, value)
    except (msgspec.ValidationError, ValueError):
        expects = described(key)[1]
        raise StartupError(f"{key} = {raw!r} ({source}): expected {expects}", 2) from None
    if refusal:
        raise StartupError(f"{key} ({source}): {refusal}", 2)
    return value


def _path_from(kind: type, raw: Any) -> Any:
    if kind is not Path or not isinstance(raw, str) or not raw.startswith("/") or "\0" in raw:
        raise ValueError("not an absolute path")
    return Path(raw)


_PARSERS: Final[dict[str, Callable[[str], object]]] = {
    "taints": amounts.taint,
    "devices": amounts.devices,
    "volumes": amounts.volume,
    "reserved_cpus": amounts.cpu_milli,
    "reserved_memory": amounts.memory_bytes,
    "reserved_disk": amounts.memory_bytes,
    "capacity_cpus": amounts.cpu_milli,
    "capacity_memory": amounts.memory_bytes,
    "capacity_disk": amounts.memory_bytes,
}


def _split(key: str, raw: Any) -> Any:
    """What one text has to be for a key that holds several."""
    if key == "labels":
        return _pairs(raw)
    if key == "devices":
        return amounts.device_list(raw)
    if key in ("taints", "volumes"):
        return [word.strip() for word in raw.split(",") if word.strip()]
    return raw


def _check_words(key: str, value: Any) -> None:
    parse = _PARSERS.get(key)
    if parse is not None:
        for word in value if isinstance(value, list) else [value] if value else []:
            parse(word)


def _pairs(raw: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in raw.split(",") if pair]
    if not all(name and equals for name, equals, _ in pairs):
        raise ValueError("not name=value")
    return {name: value for name, _, value in pairs}


def _check_port(address: str) -> None:
    if int(address.rpartition(":")[2]) > 65535:
        raise ValueError("ports end at 65535")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={text}" for name, text in sorted(value.items())) or "-"
    if isinstance(value, list):
        return ",".join(value) or "-"
    return str(value) or "-"


def advertised(config: Config) -> str:
    """`advertise_addr`, or this host's own address on the default route with the API's port."""
    if config.advertise_addr:
        return config.advertise_addr
    port = config.listen_addr.rpartition(":")[2]
    host = config.listen_addr.rpartition(":")[0]
    if host not in ("0.0.0.0", "[::]"):  # noqa: S104 - compared, not bound
        return config.listen_addr
    return f"{_own_address()}:{port}"


def advertised_peer(config: Config) -> str:
    """Where other managers reach this one: the host of its API, with `peer_addr`'s port."""
    host = advertised(config).rpartition(":")[0]
    return f"{host}:{config.peer_addr.rpartition(':')[2]}"


def tls_files(config: Config) -> Files | None:
    """The three certificate files; None where none is named.

    Raises StartupError (exit code 2) where only some are.
    """
    named = {key: getattr(config, key) for key in ("tls_ca", "tls_cert", "tls_key")}
    missing = [key for key, value in named.items() if not value]
    if len(missing) == len(named):
        return None
    if missing:
        raise StartupError(
            f"{' and '.join(missing)} not set: a host needs all of tls_ca, tls_cert and tls_key, "
            "or none to be alone",
            2,
        )
    return Files(Path(config.tls_ca), Path(config.tls_cert), Path(config.tls_key))


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing; the kernel picks the address that it would send from (RFC 5737 net).
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
