"""Certificates: who this process is, and whom it believes.

A certificate has one URI name, `spiffe://<trust domain>/<role>/<name>`. The role is `manager`,
`worker` or `client`; the name is the node's id, or for a client any. Both sides of a connection
verify the chain, the trust domain and the role. Hosts' names and addresses play no part: a
manager's certificate also has the DNS name `manager.<trust domain>`, which is the one that gRPC's
clients insist on, and no other certificate has it (docs/adr/0006).

Files are read again when they have changed. What cannot be used is told, once, and tried again: it
may begin later by this host's clock, or be readable later. Until then the last that could be used
stays in force.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from warren.errors import StartupError
from warren.tls_files import Files

__all__ = [
    "RETRY_S",
    "Credentials",
    "Material",
    "NotNowError",
    "SpiffeId",
    "TlsError",
    "credentials_of",
    "load",
    "manager_host_name",
]

_SCHEME: Final = "spiffe://"
_PART: Final = re.compile(r"[a-z0-9._-]{1,255}")
_NODE_ID: Final = re.compile(r"[0-9a-f]{32}")
_ROLES: Final = ("manager", "worker", "client")
# `manager.` before it has to be a DNS name, of at most 253 bytes.
_TRUST_DOMAIN_MAX: Final = 245
_FILE_BYTES_MAX: Final = 1 << 20
_CHAIN_MAX: Final = 8
_EXPIRES_SOON: Final = timedelta(days=3)

RETRY_S: Final = 5.0
"""Between two looks at files that were refused and have not changed."""

_Stamp = tuple[int, ...] | None
_log = logging.getLogger("warren.tls")


class TlsError(Exception):
    """Why certificate files cannot be used: a sentence that says what to do."""


class NotNowError(TlsError):
    """Why they cannot be used now: it ends without a change of the configuration.

    The clock is set, a certificate is renewed, a directory is mounted, a permission is given.
    """


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """The one name in a certificate. Made by `parse`; `str` gives the URI back."""

    trust_domain: str
    role: str
    name: str

    @classmethod
    def parse(cls, uri: str) -> SpiffeId:
        """From a URI; ValueError with a clause that says what is wrong with it."""
        if not uri.startswith(_SCHEME):
            raise ValueError(f"{uri[:64]!r} does not begin with {_SCHEME}")
        parts = uri.removeprefix(_SCHEME).split("/")
        if len(parts) != 3:
            raise ValueError(f"{uri[:128]!r} is not {_SCHEME}TRUST-DOMAIN/ROLE/NAME")
        trust_domain, role, name = parts
        if not _PART.fullmatch(trust_domain) or len(trust_domain) > _TRUST_DOMAIN_MAX:
            raise ValueError(
                f"its trust domain {trust_domain[:64]!r} is not 1 to {_TRUST_DOMAIN_MAX} of a-z, "
                "0-9 and ._-"
            )
        if role not in _ROLES:
            raise ValueError(f"its role {role[:32]!r} is none of manager, worker, client")
        if role == "client":
            if not _PART.fullmatch(name) or name in (".", ".."):
                raise ValueError(f"its name {name[:64]!r} is not 1 to 255 of a-z, 0-9 and ._-")
        elif not _NODE_ID.fullmatch(name):
            raise ValueError(f"its name {name[:64]!r} is no node id, 32 of 0-9 and a-f")
        return cls(trust_domain, role, name)

    @property
    def identity(self) -> str:
        """As the core knows it: `manager/<id>`, `worker/<id>`, `client/<name>`."""
        return f"{self.role}/{self.name}"

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain}/{self.role}/{self.name}"


@dataclass(frozen=True, slots=True)
class Material:
    """What the files held when they were read, checked."""

    ca_pem: bytes = field(repr=False)
    cert_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    identity: SpiffeId
    not_after: datetime

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a client's connection to a manager; needs `channel_options` too."""
        return grpc.ssl_channel_credentials(self.ca_pem, self.key_pem, self.cert_pem)

    def channel_options(self) -> list[tuple[str, str]]:
        """What makes a client accept a manager of its trust domain, and nobody else."""
        name = manager_host_name(self.identity.trust_domain)
        return [("grpc.ssl_target_name_override", name)]

    def ssl_context(self) -> ssl.SSLContext:
        """To look at the other side's certificate: the chain is verified, no name is."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["h2"])
        context.load_verify_locations(cadata=self.ca_pem.decode("ascii", "ignore"))
        with tempfile.NamedTemporaryFile() as both:  # mode 0600; the module reads files only
            both.write(self.key_pem + b"\n" + self.cert_pem)
            both.flush()
            context.load_cert_chain(both.name)
        return context


def manager_host_name(trust_domain: str) -> str:
    """The DNS name that the certificates of managers have, and no others."""
    return f"manager.{trust_domain}"


def load(files: Files, now: datetime | None = None) -> Material:
    """Read and check them: they parse, belong together, are in date, and say who we are.

    Raises TlsError.
    """
    now = now or datetime.now(UTC)
    ca_pem, cert_pem = _read("tls_ca", files.ca), _read("tls_cert", files.cert)
    key_pem = _read("tls_key", files.key)
    authorities = _certificates("tls_ca", files.ca, ca_pem)
    chain = _certificates("tls_cert", files.cert, cert_pem)
    _check_key(files, key_pem, chain[0])
    _check_dates(f"tls_cert {files.cert}", chain[:1], now)
    _check_dates(f"tls_ca {files.ca}", authorities, now)
    _check_chain(files, chain, authorities)
    identity = _identity(files, chain[0])
    _check_uses(files, chain[0], identity)
    _check_names(files, chain[0], identity)
    return Material(ca_pem, cert_pem, key_pem, identity, chain[0].not_valid_after_utc)


def credentials_of(files: Files | None) -> Credentials | None:
    """What a daemon goes by; None where it has no certificates.

    Raises StartupError where they cannot be used: exit code 1, with which the supervisor tries
    again, where that may end by itself; else 2.
    """
    try:
        return None if files is None else Credentials(files)
    except NotNowError as error:
        raise StartupError(str(error), 1) from None
    except TlsError as error:
        raise StartupError(str(error), 2) from None


class Credentials:
    """The material in force. `material` may be called from any thread.

    `generation` rises when it changes, so that whoever has a connection from before can tell.
    """

    def __init__(
        self,
        files: Files,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        elapsed_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises TlsError where the files cannot be used."""
        self.generation = 0
        self._files = files
        self._now = now
        self._elapsed_s = elapsed_s
        self._lock = threading.Lock()
        # Taken first: what is written meanwhile is read at the next look.
        self._stamps = _stamps(files)
        self._material = load(files, now())
        self._warned_of: datetime | None = None
        self._refused = ""
        self._retry_at_s = 0.0

    @property
    def identity(self) -> SpiffeId:
        """Who we are; the same for as long as this process lives."""
        return self._material.identity

    @property
    def files(self) -> Files:
        """Where it comes from."""
        return self._files

    def material(self) -> Material:
        """What is in force, after another look at the files."""
        with self._lock:
            stamps = _stamps(self._files)
            due = self._refused and self._elapsed_s() >= self._retry_at_s
            if stamps != self._stamps or due:
                self._stamps = stamps
                self._take()
            self._warn_of_expiry()
            return self._material

    def server(self) -> grpc.ServerCredentials:
        """For a server that asks each client for a certificate, and follows the files."""
        given = [self.material()]

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            # At each handshake, on a thread of gRPC's.
            material = self.material()
            if material is given[0]:
                return None
            given[0] = material
            return _server_configuration(material)

        return grpc.dynamic_ssl_server_credentials(
            _server_configuration(given[0]),
            fetch,  # type: ignore[arg-type] # None: as before, which the stubs do not know
            require_client_authentication=True,
        )

    def _take(self) -> None:
        try:
            material = load(self._files, self._now())
            self._check_same(material.identity)
        except TlsError as error:
            self._retry_at_s = self._elapsed_s() + RETRY_S
            if str(error) != self._refused:
                self._refused = str(error)
                _log.error(
                    "certificates have changed and cannot be used: %s; the last go on", error
                )
            return
        self._refused = ""
        self._material = material
        self.generation += 1
        _log.info("certificates were read anew; valid until %s", material.not_after.isoformat())

    def _check_same(self, new: SpiffeId) -> None:
        if new != self.identity:
            raise TlsError(
                f"the new certificate is for {new} and this daemon runs as {self.identity}; "
                "restart the daemon to be somebody else"
            )

    def _warn_of_expiry(self) -> None:
        until = self._material.not_after
        if self._warned_of != until and until - self._now() < _EXPIRES_SOON:
            self._warned_of = until
            _log.warning(
                "the certificate ends at %s; put a new one into %s%s",
                until.isoformat(),
                self._files.cert,
                f" (what is there cannot be used: {self._refused})" if self._refused else "",
            )


def _server_configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    pair = (material.key_pem, material.cert_pem)
    return grpc.ssl_server_certificate_configuration([pair], material.ca_pem)


def _stamps(files: Files) -> tuple[_Stamp, ...]:
    return tuple(_stamp(path) for path in (files.ca, files.cert, files.key))


def _stamp(path: Path) -> _Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    # The change time follows a write as the modification time does, and also a permission to read
    # that was missing, and a copy that keeps its original's times.
    return (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)


def _read(key: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise NotNowError(f"cannot read {key} {path}: {error.strerror}") from None
    if len(content) > _FILE_BYTES_MAX:
        raise TlsError(f"{key} {path} is larger than 1 MiB; is it the right file?")
    return content


def _certificates(key: str, path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise TlsError(
            f"{key} {path} holds no certificate in PEM form ({error}); name the right file"
        ) from None


def _check_key(files: Files, key_pem: bytes, leaf: x509.Certificate) -> None:
    try:
        public = load_pem_private_key(key_pem, None).public_key()
    except TypeError:
        raise TlsError(
            f"tls_key {files.key} is protected by a passphrase; give the daemon one without"
        ) from None
    except (ValueError, AttributeError, NotImplementedError) as error:
        raise TlsError(
            f"tls_key {files.key} holds no private key in PEM form ({error}); name the right file"
        ) from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*form) != leaf.public_key().public_bytes(*form):
        # Also what it looks like between the two halves of a renewal.
        raise NotNowError(
            f"tls_key {files.key} is not the key of the first certificate in tls_cert "
            f"{files.cert}; name the two that belong together"
        )


def _check_dates(what: str, certificates: Sequence[x509.Certificate], now: datetime) -> None:
    """At least one of them is valid now: a CA that is being replaced has two."""
    if any(one.not_valid_before_utc <= now <= one.not_valid_after_utc for one in certificates):
        return
    one = certificates[0]
    if now > one.not_valid_after_utc:
        ended = one.not_valid_after_utc.isoformat()
        raise NotNowError(f"{what} has expired at {ended}; have a new one issued")
    begins = one.not_valid_before_utc.isoformat()
    raise NotNowError(f"{what} is valid only from {begins}; is this host's clock right?")


def _check_chain(
    files: Files, chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]
) -> None:
    current = chain[0]
    for _ in range(_CHAIN_MAX):
        if any(_issued(current, authority) for authority in authorities):
            return
        above = next((one for one in chain[1:] if _issued(current, one)), None)
        if above is None or above == current:
            break
        current = above
    raise TlsError(
        f"the certificate in tls_cert {files.cert} was not issued by a CA in tls_ca {files.ca}; "
        "name the CA that issued it, and put intermediates behind the certificate"
    )


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _identity(files: Files, leaf: x509.Certificate) -> SpiffeId:
    uris = _alternative_names(leaf, x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise TlsError(
            f"the certificate in tls_cert {files.cert} has {len(uris)} URI names instead of one; "
            f"have it issued with {_SCHEME}TRUST-DOMAIN/ROLE/NAME as its URI name"
        )
    try:
        return SpiffeId.parse(uris[0])
    except ValueError as error:
        raise TlsError(
            f"the URI name of the certificate in tls_cert {files.cert} does not say who this is: "
            f"{error}; have it issued with {_SCHEME}TRUST-DOMAIN/ROLE/NAME"
        ) from None


def _check_uses(files: Files, leaf: x509.Certificate, identity: SpiffeId) -> None:
    try:
        uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    needed = {"clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH}
    if identity.role == "manager":
        needed["serverAuth"] = ExtendedKeyUsageOID.SERVER_AUTH
    missing = [name for name, oid in needed.items() if oid not in uses]
    if missing:
        raise TlsError(
            f"the certificate in tls_cert {files.cert} may not be used as a {identity.role}'s: its "
            f"extended key usage lacks {' and '.join(missing)}; have it issued with it"
        )


def _check_names(files: Files, leaf: x509.Certificate, identity: SpiffeId) -> None:
    name = manager_host_name(identity.trust_domain)
    has = name in _alternative_names(leaf, x509.DNSName)
    if has == (identity.role == "manager"):
        return
    if has:
        raise TlsError(
            f"the certificate in tls_cert {files.cert} is a {identity.role}'s and has the DNS name "
            f"{name}, by which managers are known; have it issued without"
        )
    raise TlsError(
        f"the certificate in tls_cert {files.cert} is a manager's and lacks the DNS name {name}, "
        "by which clients know managers; have it issued with it"
    )


def _alternative_names(
    leaf: x509.Certificate, kind: type[x509.DNSName] | type[x509.UniformResourceIdentifier]
) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    found: Iterable[str] = names.get_values_for_type(kind)
    return list(found)
