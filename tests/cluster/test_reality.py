"""What the harness says of a cluster is so: certificates, simulated containers, what is left."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509

from tests.cluster import simulated
from tests.cluster.certificates import TRUST_DOMAIN, Authority, node_id
from tests.cluster.fleet import Comparison
from tests.cluster.simulated import KeptRuntime, behave
from tests.cluster.waiting import wait_until
from warren.agent.runtime.base import ContainerRequest, Phase
from warren.pb.v1 import objects_pb2


@pytest.mark.parametrize("role", ["manager", "worker", "client"])
def test_a_certificate_has_one_uri_and_managers_a_dns_name(role: str) -> None:
    name = node_id()
    pem, _ = Authority().issue(role, name)  # type: ignore[arg-type]
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == [f"spiffe://{TRUST_DOMAIN}/{role}/{name}"]
    dns = names.get_values_for_type(x509.DNSName)
    assert dns == ([f"manager.{TRUST_DOMAIN}"] if role == "manager" else [])


def test_a_certificate_can_be_over() -> None:
    pem, _ = Authority().issue("client", "late", valid_for=datetime.timedelta(minutes=-5))
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.not_valid_before_utc < certificate.not_valid_after_utc
    assert certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC)


def request(container_id: str, attempt: int = 1, *command: str) -> ContainerRequest:
    return ContainerRequest(
        id=container_id,
        attempt=attempt,
        service_id="5" * 32,
        service_name="web",
        slot=1,
        spec_digest="d1",
        spec=objects_pb2.ContainerSpec(command=command),
        log_dir=Path("/nonexistent"),
        node_name="n",
    )


async def test_simulated_containers_outlive_their_daemon_and_starts_are_written_down(
    tmp_path: Path,
) -> None:
    runtime = KeptRuntime(tmp_path, behave)
    await runtime.create(request("a"))
    await runtime.start("a")
    await runtime.create(request("b"))
    again = KeptRuntime(tmp_path, behave)
    assert {one.id: one.phase for one in await again.list()} == {
        "a": Phase.RUNNING,
        "b": Phase.CREATED,
    }
    await again.stop("a", 1000)
    await again.delete("a")
    await again.create(request("a", 2))
    await again.start("a")
    assert [(start.container_id, start.attempt) for start in simulated.starts(tmp_path)] == [
        ("a", 1),
        ("a", 2),
    ]
    assert {one.id for one in simulated.containers(tmp_path)} == {"a", "b"}


async def test_waiting_ends_with_what_was_seen_last() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.1 s: the moon; last seen: 0 run"):
        await wait_until(lambda: Comparison(missing=["web.1"]), "the moon", 0.1)
