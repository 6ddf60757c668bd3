"""`warrenctl service create|update|scale|rm`: each changes a service, then waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from warren.cli import parse
from warren.cli.common import Command, Settings, common_options, detach_option
from warren.cli.options import spec_options
from warren.cli.params import Parsed
from warren.cli.planning import plan_option

if TYPE_CHECKING:
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2, objects_pb2

__all__ = ["create", "remove", "scale", "spec_of", "update"]

WAIT_TIMEOUT_S = 60.0


@click.command(cls=Command)
@click.argument("name", required=False)
@click.argument("command", nargs=-1)
@click.option("--name", "name_flag", metavar="NAME", help="The name, as a flag.")
@spec_options(update=False)
@plan_option
@detach_option
@common_options
@click.pass_obj
def create(
    settings: Settings,
    /,
    name: str | None,
    name_flag: str | None,
    command: tuple[str, ...],
    detach: bool,
    plan: bool,
    **flags: Any,
) -> int:
    """Create a service and wait until it runs.

    Words after -- replace the image's command: warrenctl service create web --image httpd:1 --
    httpd -p 8080
    """
    if name_flag is not None:
        # The first word is then the command's, as in Docker's order of things.
        command = command if name is None else (name, *command)
        name = name_flag
    if name is None:
        raise click.UsageError(
            "a service needs a name: warrenctl service create NAME --image IMAGE"
        )

    from warren.cli import planning, render, shapes, wait
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2, explain_pb2

    spec = spec_of(name, command, flags)
    with Client(settings, WAIT_TIMEOUT_S) as client:
        if plan:
            item = explain_pb2.PlanItem(create=explain_pb2.PlanCreate(spec=spec))
            return planning.ask(settings, client, [item])
        request = api_pb2.CreateServiceRequest(request=client.request_id(), spec=spec)
        answer: api_pb2.CreateServiceResponse = client.call("CreateService", request)
        if not detach:
            wait.wait_running(client, answer.service_id, spec, answer.version)
    identifier = answer.service_id.hex()
    render.show_line(settings, shapes.ServiceChanged(identifier, name, answer.version), identifier)
    return 0


def spec_of(name: str, command: Sequence[str], flags: Mapping[str, Any]) -> objects_pb2.ServiceSpec:
    """The spec that `service create` makes of its flags. Raises click.UsageError."""
    from warren.cli.spec import SpecFlags, apply
    from warren.pb.v1 import objects_pb2

    said = dict(flags)
    said["mode"] = said["mode"] or "replicated"
    if said["replicas"] is None and said["mode"] == "replicated":
        said["replicas"] = 1
    spec = objects_pb2.ServiceSpec(name=name)
    apply(spec, SpecFlags(**said, command=command))
    return spec


@click.command(cls=Command)
@click.argument("service")
@click.argument("command", nargs=-1)
@spec_options(update=True)
@plan_option
@detach_option
@common_options
@click.pass_obj
def update(
    settings: Settings,
    /,
    service: str,
    command: tuple[str, ...],
    detach: bool,
    plan: bool,
    **flags: Any,
) -> int:
    """Change a service, and wait until the change runs.

    Only what is said changes. Words after -- become the command.
    """
    from warren.cli import planning, render, shapes, wait
    from warren.cli.client import Client
    from warren.cli.spec import SpecFlags, apply
    from warren.pb.v1 import explain_pb2

    with Client(settings, WAIT_TIMEOUT_S) as client:
        before = _get(client, service)
        spec = before.spec
        apply(spec, SpecFlags(**flags, command=command))
        if plan:
            change = explain_pb2.PlanUpdate(
                service_id=before.id, expected_version=before.version, spec=spec
            )
            return planning.ask(settings, client, [explain_pb2.PlanItem(update=change)])
        version = _update(client, before, spec)
        if not detach:
            wait.wait_running(client, before.id, spec, version)
    changed = shapes.ServiceChanged(before.id.hex(), spec.name, version)
    render.show_line(settings, changed, spec.name)
    return 0


@click.command(cls=Command)
@click.argument(
    "scales",
    metavar="SERVICE=REPLICAS...",
    nargs=-1,
    required=True,
    type=Parsed("service=replicas", parse.scale),
)
@detach_option
@common_options
@click.pass_obj
def scale(settings: Settings, scales: tuple[tuple[str, int], ...], detach: bool) -> None:
    """Set the number of replicas of services, and wait until so many run."""
    from warren.cli import render, shapes, wait
    from warren.cli.client import Client
    from warren.cli.spec import SpecFlags, apply

    with Client(settings, WAIT_TIMEOUT_S) as client:
        # All are looked up first: a wrong name among them changes nothing.
        wanted = {}
        for ref, replicas in scales:
            before = _get(client, ref)
            apply(before.spec, SpecFlags(replicas=replicas))
            wanted[before.id] = before
        changes = _scaled(client, [*wanted.values()])
        if not detach:
            for service, version in changes:
                wait.wait_running(client, service.id, service.spec, version)
    views = [shapes.ServiceChanged(s.id.hex(), s.spec.name, version) for s, version in changes]
    if settings.format == "table":
        for service, _ in changes:
            click.echo(_scale_text(service))
    else:
        render.show_list(settings, views, (), lambda _: ())


def _scaled(
    client: Client, services: Sequence[objects_pb2.Service]
) -> list[tuple[objects_pb2.Service, int]]:
    """Change one after the other; each with its new version. A failure names those before it."""
    from warren.errors import WarrenError

    changes: list[tuple[objects_pb2.Service, int]] = []
    for service in services:
        try:
            changes.append((service, _update(client, service, service.spec)))
        except WarrenError as error:
            if not changes:
                raise
            before = ", ".join(_scale_text(changed) for changed, _ in changes)
            raise error.worded(
                f"service {service.spec.name}: {error.message}; changed before it: {before}"
            ) from None
    return changes


def _scale_text(service: objects_pb2.Service) -> str:
    return f"{service.spec.name}={service.spec.replicas}"


@click.command("rm", cls=Command)
@click.argument("services", metavar="SERVICE...", nargs=-1, required=True)
@detach_option
@common_options
@click.pass_obj
def remove(settings: Settings, services: tuple[str, ...], detach: bool) -> None:
    """Remove services, and wait until nothing of them is left."""
    from warren.cli import render, shapes, wait
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2

    removed = []
    with Client(settings, WAIT_TIMEOUT_S) as client:
        # All are looked up first: a wrong name among them removes nothing.
        for service in [_get(client, ref) for ref in services]:
            request = api_pb2.RemoveServiceRequest(
                request=client.request_id(), service_id=service.id
            )
            client.call("RemoveService", request)
            removed.append(service)
        if not detach:
            for service in removed:
                wait.wait_gone(client, service.id, service.spec.name)
    views = [shapes.ServiceRemoved(service.id.hex(), service.spec.name) for service in removed]
    if settings.format == "table":
        for service in removed:
            click.echo(service.spec.name)
    else:
        render.show_list(settings, views, (), lambda _: ())


def _get(client: Client, ref: str) -> objects_pb2.Service:
    from warren.pb.v1 import api_pb2

    answer: api_pb2.GetServiceResponse = client.call(
        "GetService", api_pb2.GetServiceRequest(ref=ref)
    )
    return answer.service.service


def _update(client: Client, before: objects_pb2.Service, spec: objects_pb2.ServiceSpec) -> int:
    from warren.pb.v1 import api_pb2

    request = api_pb2.UpdateServiceRequest(
        request=client.request_id(),
        service_id=before.id,
        expected_version=before.version,
        spec=spec,
    )
    answer: api_pb2.UpdateServiceResponse = client.call("UpdateService", request)
    return answer.version
