"""Certificates for test clusters: one authority, and what it issues to managers, workers, people.

Each has the one URI SAN `spiffe://<trust domain>/<role>/<name>` that every side checks. Managers'
also have the DNS SAN that gRPC clients name (docs/adr/0006).
"""

from __future__ import annotations

import datetime
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TRUST_DOMAIN: Final = "cluster.test"

Role = Literal["manager", "worker", "client"]


@dataclass(frozen=True)
class Files:
    """Where the three PEM files of one holder are."""

    ca: Path
    cert: Path
    key: Path


class Authority:
    """A certificate authority of one trust domain; its key lives in memory only."""

    def __init__(self, trust_domain: str = TRUST_DOMAIN) -> None:
        self.trust_domain = trust_domain
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{trust_domain} authority")])
        self._name = name
        self._certificate = (
            _builder(name, name, self._key.public_key(), datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        role: Role,
        name: str,
        valid_for: datetime.timedelta = datetime.timedelta(hours=12),
        trust_domain: str | None = None,
    ) -> tuple[bytes, bytes]:
        """A certificate for a new key, and the key, both PEM. A negative time: expired already."""
        domain = trust_domain or self.trust_domain
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(f"spiffe://{domain}/{role}/{name}")
        ]
        if role == "manager":
            names.append(x509.DNSName(f"manager.{domain}"))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{role} {name}"[:64])])
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        certificate = (
            _builder(subject, self._name, key.public_key(), valid_for)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def write(self, folder: Path, role: Role, name: str) -> Files:
        """Issues one and writes it, its key and the authority's certificate into ``folder``."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        cert, key = self.issue(role, name)
        files = Files(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        files.ca.write_bytes(self.pem)
        files.cert.write_bytes(cert)
        files.key.touch(mode=0o600)
        files.key.write_bytes(key)
        return files


def node_id() -> str:
    """A new one, as certificates carry it."""
    return secrets.token_hex(16)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    valid_for: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    # An hour early: clocks of test hosts are one, those of people who copy this are not.
    begins = min(now, now + valid_for) - datetime.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(now + valid_for)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
