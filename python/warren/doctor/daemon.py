"""The daemon of this host: where it is, how it was configured, and what it says of itself."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from warren import __version__, config
from warren.doctor.verdict import FAILED, OK, SKIPPED, WARNING, Readings, Verdict
from warren.errors import StartupError
from warren.observe.http import split_address

__all__ = [
    "Daemon",
    "Probe",
    "Setup",
    "configuration",
    "fetch",
    "flags_of",
    "health",
    "presence",
    "read_daemon",
    "read_probe",
    "read_setup",
    "readiness",
]

_TIMEOUT_S: Final = 3.0
_BODY_BYTES_MAX: Final = 16 << 20
_TLS: Final = tuple(map(config.env_name, ("tls_ca", "tls_cert", "tls_key")))

_ADVICE: Final = {
    "raft": "warrenctl cluster members says who is missing; disk.* here tell of the log's disk",
    "containerd": "see containerd below",
    "session": "is a manager reachable? warrenctl node ls on one of them; the daemon's log",
    "api": "read the daemon's log: journalctl -u warrend",
}


@dataclass(frozen=True, slots=True)
class Setup:
    """The configuration, and whose it is.

    `config` is what is in force, or the defaults where `trouble` says why it cannot be known.
    `pid`: the daemon whose flags and variables were read; None where this command's count.
    """

    config: config.Config
    sources: Mapping[str, str]
    pid: int | None
    trouble: str = ""


def flags_of(words: Sequence[str]) -> tuple[dict[str, str], Path | None]:
    """What a daemon's command line says: values by key, and its configuration file."""
    keys = {config.flag_name(key): key for key in config.KEYS}
    found: dict[str, str] = {}
    file = None
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag != "--config" and flag not in keys:
            continue
        value = value if equals else next(rest, "")
        if flag == "--config":
            file = Path(value)
        else:
            found[keys[flag]] = value
    return found, file


def read_setup(path: Path | None, file: Path | None, env: Mapping[str, str]) -> Setup:
    """`path`: a socket that is known already; `file`: the configuration file that was named.

    A daemon that serves the socket is asked first: its process tells its flags and variables to
    root and to its own user.
    """
    # Whose certificates variables named here are is open: they were once the client's too.
    named = _resolved({}, {k: v for k, v in env.items() if k not in _TLS}, file, None)
    if file is not None:
        return named
    pid = listener(path or named.config.socket)
    if pid is None:
        return named
    try:
        folder = Path(f"/proc/{pid}")
        words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        pairs = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        cwd = Path(os.readlink(folder / "cwd"))
    except OSError:  # another user's, or it has just ended
        return named
    flags, its_file = flags_of(words)
    its_env = dict(pair.split("=", 1) for pair in pairs if pair.startswith("WARREN_"))
    return _resolved(flags, its_env, cwd / its_file if its_file else None, pid)


def _resolved(
    flags: Mapping[str, str], env: Mapping[str, str], file: Path | None, pid: int | None
) -> Setup:
    try:
        found = config.resolve(flags, env, file)
    except StartupError as error:
        return Setup(config.Config(), {}, pid, str(error))
    return Setup(found.config, found.sources, pid)


def listener(path: Path) -> int | None:
    """The process that listens on a Unix socket; None where nobody does, or may not be asked."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_TIMEOUT_S)
        try:
            probe.connect(str(path))
            told = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return None
    pid = int(struct.unpack("3i", told)[0])
    return pid or None  # 0: of another process namespace


def configuration(found: Setup) -> Verdict:
    """Whether a daemon would take it."""
    if found.trouble:
        advice = "correct it; warrend --check-config shows each value and its source"
        return Verdict("configuration", FAILED, found.trouble, advice)
    set_keys = [key for key, source in found.sources.items() if source != "default"]
    whose = f"the daemon's (pid {found.pid})" if found.pid else "as this command finds it"
    words = f"{whose}: {len(set_keys)} of {len(found.sources)} keys set"
    readings: Readings = {"pid": found.pid, "set": ", ".join(set_keys)}
    return Verdict("configuration", OK, words, "", readings)


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the daemon says over its socket. `trouble`: why it says nothing.

    `expected`: this host has a data directory, so that somebody meant one to run.
    """

    path: str
    expected: bool
    trouble: str = ""
    denied: bool = False
    pid: int | None = None
    version: str = ""
    node_name: str = ""
    in_cluster: bool = False
    manages: bool = False
    ready_message: str = ""
    clock_ahead_s: float | None = None
    clock_error_s: float = 0.0


def presence(found: Daemon, client: str = __version__) -> Verdict:
    """Whether it is there, and of this client's release."""
    readings: Readings = {
        "socket": found.path,
        "pid": found.pid,
        "version": found.version or None,
        "client_version": client,
        "node_name": found.node_name or None,
        "in_cluster": found.in_cluster,
        "manages": found.manages,
    }
    if found.denied:
        advice = "run this command as root, or join group warren"
        return Verdict("daemon", SKIPPED, f"may not ask at {found.path}", advice, readings)
    if found.trouble:
        words = f"no daemon answers at {found.path}: {found.trouble}"
        advice = "start it (systemctl start warrend); if it ends at once: journalctl -u warrend"
        if found.pid is not None:
            words = f"pid {found.pid} holds {found.path} and does not answer: {found.trouble}"
            advice = (
                f"it is stuck: py-spy dump --pid {found.pid} (docs/profiling.md), then restart it"
            )
        status = FAILED if found.expected or found.pid is not None else SKIPPED
        return Verdict("daemon", status, words, advice, readings)
    words = f"warrend {found.version} (pid {found.pid or '?'}) answers at {found.path}"
    if found.version != client:
        advice = "restart warrend if it was upgraded; else install the same release of both"
        words += f"; this command is {client}"
        return Verdict("daemon", WARNING, words, advice, readings)
    return Verdict("daemon", OK, words, "", readings)


def read_daemon(path: Path, data_dir: Path) -> Daemon:
    """Asks over the socket, once."""
    expected = data_dir.exists()
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except PermissionError:
            return Daemon(str(path), expected, denied=True)
        except OSError as error:
            return Daemon(str(path), expected, trouble=error.strerror or str(error))
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc

    from warren import rpc
    from warren.pb.v1 import node_pb2

    with grpc.insecure_channel(f"unix:{path}", options=rpc.CLIENT_OPTIONS) as channel:
        try:
            told = rpc.Stub(channel, rpc.NODE_LOCAL).GetDaemon(
                node_pb2.GetDaemonRequest(), timeout=_TIMEOUT_S
            )
        except grpc.RpcError as error:
            why = rpc.failure(error).message
            return Daemon(str(path), expected, trouble=why, pid=listener(path))
    return Daemon(
        str(path),
        expected,
        pid=listener(path),
        version=told.version,
        node_name=told.node_name,
        in_cluster=told.in_cluster,
        manages=told.manages,
        ready_message=told.ready_message,
        clock_ahead_s=told.clock.seconds if told.HasField("clock") else None,
        clock_error_s=told.clock.error_seconds,
    )


@dataclass(frozen=True, slots=True)
class Probe:
    """An answer of /health or /ready. `body` is None where `trouble` says why there is none."""

    address: str
    body: dict[str, Any] | None = None
    trouble: str = ""


def health(found: Probe, daemon: Daemon) -> list[Verdict]:
    """A verdict for each component that the daemon has."""
    if found.body is None:
        if daemon.trouble or daemon.denied:
            return [Verdict("health", SKIPPED, "no daemon to ask")]
        words = f"no answer at {found.address}: {found.trouble}"
        advice = "if metrics_addr is right, the daemon is stuck; docs/profiling.md says how to look"
        return [Verdict("health", FAILED, words, advice)]
    verdicts = []
    for name, state in sorted(found.body["components"].items()):
        ok = state == "healthy"
        advice = "" if ok else _ADVICE.get(name, _ADVICE["api"])
        verdicts.append(Verdict(f"health.{name}", OK if ok else FAILED, state, advice))
    return verdicts


def readiness(found: Probe, daemon: Daemon) -> Verdict:
    """Whether it is ready; the socket says so where the metrics address does not."""
    message = daemon.ready_message
    if found.body is not None:
        message = found.body.get("message", "")
    elif daemon.trouble or daemon.denied:
        return Verdict("ready", SKIPPED, "no daemon to ask")
    if not message:
        return Verdict("ready", OK, "ready")
    status = FAILED if daemon.in_cluster or not daemon.version else WARNING
    return Verdict("ready", status, message, "see what it waits for, above and below")


def read_probe(address: str, path: str) -> Probe:
    """Asks the daemon's metrics address for /health or /ready."""
    try:
        status, data = fetch(address, path)
        body = json.loads(data)
        if not isinstance(body.get("components"), dict):
            return Probe(address, trouble=f"{path} was answered with {status} by somebody else")
    except (OSError, StartupError, ValueError, AttributeError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Probe(address, trouble=why)
    return Probe(address, body)


def fetch(address: str, path: str, limit_bytes: int = _BODY_BYTES_MAX) -> tuple[int, bytes]:
    """Status and body, of the latter at most so many bytes.

    Raises OSError, StartupError or HTTPException.
    """
    host, port = split_address(address)
    # Bound to every address it is asked at the nearest one.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(limit_bytes)
    finally:
        connection.close()
