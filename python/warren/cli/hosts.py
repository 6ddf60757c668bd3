"""The hosts that `--host` names: how each is reached, and why one cannot be."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from warren.errors import WarrenError

# gRPC's own words about a lost connection would stand between ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from warren import rpc
from warren.cli.parse import address

if TYPE_CHECKING:
    from warren import tls
    from warren.cli.common import Settings

__all__ = ["Connection", "Host", "parse"]


@dataclass(frozen=True, slots=True)
class Host:
    """One of them: a Unix socket's `path`, or the `address` (host, port) of a manager's API."""

    text: str
    path: str = ""
    address: tuple[str, int] = ("", 0)


def parse(text: str) -> list[Host]:
    """The hosts in a comma-separated list. Raises WarrenError `invalid` for what is none."""
    hosts = [_host(word.strip()) for word in text.split(",") if word.strip()]
    if not hosts:
        raise WarrenError("invalid", f"'{text}' names no host; {_HOW}")
    return list(dict.fromkeys(hosts))


# The latter's word on an option counts.
_REMOTE_OPTIONS: Final = [*dict([*rpc.CLIENT_OPTIONS, *rpc.KEEPALIVE_OPTIONS]).items()]
_HOW: Final = "write unix:///path/of/warren.sock or HOST:PORT, several with commas between"


def _host(word: str) -> Host:
    path = word.removeprefix("unix://")
    if path != word and path.startswith("/"):
        return Host(word, path=path)
    try:
        named = address(word)
        # As the resolver does, which takes no empty or endless part of a name.
        named[0].encode("idna")
        return Host(word, address=named)
    except ValueError:
        raise WarrenError("invalid", f"cannot use host '{word}'; {_HOW}") from None


class Connection:
    """An open way to one host's daemon, which has to answer within `timeout_s`.

    Raises WarrenError on construction: `unavailable` or `denied` with what is in the way, `invalid`
    where certificates are needed and not given.
    """

    def __init__(self, host: Host, settings: Settings, timeout_s: float) -> None:
        self.host = host
        timeout_s = max(0.001, timeout_s)
        if host.path:
            _probe_socket(host.path, timeout_s)
            self._channel = grpc.insecure_channel(f"unix:{host.path}", options=rpc.CLIENT_OPTIONS)
        else:
            self._channel = _secure(host, settings, timeout_s)
        self._manager = rpc.Stub(self._channel, rpc.MANAGER)
        self._node = rpc.Stub(self._channel, rpc.NODE_LOCAL)

    def method(self, name: str) -> Any:
        """The call of a method of the manager or of the node service."""
        return getattr(self._manager if name in rpc.MANAGER else self._node, name)

    def close(self) -> None:
        """End all calls on it."""
        self._channel.close()


def _probe_socket(path: str, timeout_s: float) -> None:
    # gRPC says "unavailable" of a socket that is missing and of one that is forbidden alike.
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(timeout_s)
        try:
            probe.connect(path)
        except PermissionError:
            raise WarrenError(
                "denied",
                f"permission denied on {path}; add yourself to group warren "
                "(sudo usermod -aG warren $USER) and log in again",
            ) from None
        except OSError as error:
            raise WarrenError(
                "unavailable",
                f"no daemon at {path} ({error.strerror or error}); is warrend running? "
                "systemctl status warrend",
            ) from None


def _secure(host: Host, settings: Settings, timeout_s: float) -> grpc.Channel:
    files = (settings.tls_ca, settings.tls_cert, settings.tls_key)
    if not all(files):
        raise WarrenError(
            "invalid",
            f"{host.text} is reached with certificates only; name three files: --tls-ca, "
            "--tls-cert and --tls-key (WARRENCTL_TLS_CA, WARRENCTL_TLS_CERT, WARRENCTL_TLS_KEY)",
        )
    from warren import tls
    from warren.tls_files import Files

    try:
        material = tls.load(Files(*map(Path, files)))
    except tls.TlsError as error:
        raise WarrenError("invalid", str(error)) from None
    _probe_manager(host, material, timeout_s)
    target = f"[{host.address[0]}]" if ":" in host.address[0] else host.address[0]
    return grpc.secure_channel(
        f"{target}:{host.address[1]}",
        material.channel_credentials(),
        options=[*_REMOTE_OPTIONS, *material.channel_options()],
    )


def _probe_manager(host: Host, material: tls.Material, timeout_s: float) -> None:
    """Why no call could get through, which gRPC does not tell: it says "unavailable" of all."""
    import ssl

    from warren.tls import manager_host_name

    context = material.ssl_context()
    context.check_hostname = True
    name = manager_host_name(material.identity.trust_domain)
    try:
        with (
            socket.create_connection(host.address, timeout_s) as raw,
            context.wrap_socket(raw, server_hostname=name) as secured,
        ):
            # A refusal of our certificate comes only behind the handshake: the end, not HTTP/2.
            if not secured.recv(1):
                raise ssl.SSLError(0, "it hung up")
    except ssl.SSLCertVerificationError as error:
        raise WarrenError(
            "denied",
            f"who answers at {host.text} is no manager of {material.identity.trust_domain} "
            f"({error.verify_message}); is the address that of a manager's API, and --tls-ca the "
            "CA of this cluster?",
        ) from None
    except ssl.SSLError as error:
        why = getattr(error, "reason", None) or error.strerror or str(error)
        raise WarrenError(
            "denied",
            f"{host.text} and this client do not accept each other ({why}); is the port "
            "that of a manager's API, and --tls-cert issued by the CA that it trusts?",
        ) from None
    except OSError as error:
        late = isinstance(error, TimeoutError)
        why = "no answer in time" if late else error.strerror or str(error)
        raise WarrenError(
            "unavailable", f"no manager at {host.text} ({why}); is warrend running there?"
        ) from None
