"""A certificate authority for tests: managers, workers and clients of one trust domain."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from warren.tls import manager_host_name
from warren.tls_files import Files

TRUST_DOMAIN = "test.warren"
DAY = timedelta(days=1)


class Authority:
    """A CA. `issue` writes certificates and keys into its directory."""

    def __init__(self, directory: Path, trust_domain: str = TRUST_DOMAIN) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.trust_domain = trust_domain
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA of {trust_domain}")])
        now = datetime.now(UTC)
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 365 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = directory / f"ca-{secrets.token_hex(4)}.pem"
        self.file.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def manager(self, node_id: str) -> Files:
        """For a host that may manage."""
        return self.issue("manager", node_id)

    def worker(self, node_id: str) -> Files:
        """For a host that runs containers only."""
        return self.issue("worker", node_id)

    def client(self, name: str = "ann") -> Files:
        """For a person."""
        return self.issue("client", name)

    def issue(
        self,
        role: str,
        name: str,
        *,
        dns: Sequence[str] | None = None,
        uris: Sequence[str] | None = None,
        begins: datetime | None = None,
        ends: datetime | None = None,
        uses: Sequence[x509.ObjectIdentifier] | None = None,
    ) -> Files:
        """Any certificate, also one that is refused: each part can be another than it should be."""
        now = datetime.now(UTC)
        if dns is None:
            dns = [manager_host_name(self.trust_domain)] if role == "manager" else []
        if uris is None:
            uris = [f"spiffe://{self.trust_domain}/{role}/{name}"]
        if uses is None:
            uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
            uses += [ExtendedKeyUsageOID.SERVER_AUTH] if role == "manager" else []
        names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins or now - DAY)
            .not_valid_after(ends or now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        certificate = builder.sign(self._key, hashes.SHA256())
        return self._written(f"{role}-{name}", certificate, key)

    def _written(
        self, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> Files:
        files = Files(self.file, self.directory / f"{stem}.pem", self.directory / f"{stem}.key")
        for path, content in (
            (files.cert, certificate.public_bytes(Encoding.PEM)),
            (
                files.key,
                key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            ),
        ):
            part = path.with_suffix(path.suffix + ".part")
            part.touch(mode=0o600)
            part.write_bytes(content)
            part.rename(path)
        return files


def node_id(number: int) -> str:
    """A node id that is easy to tell from others in a log."""
    return f"{number:02x}" * 16
