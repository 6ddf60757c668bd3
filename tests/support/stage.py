"""A node that is killed, and a bystander on it that must never notice."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.api import Api
from tests.support.containerd import Containerd, runtime_tasks
from tests.support.containerd_proxy import ContainerdProxy
from tests.support.node import WarrenNode, eventually
from warren.pb.v1 import api_pb2, objects_pb2

IMAGE = "docker.io/library/tiny:1"

# Ends at once on SIGTERM, which the first process of a container otherwise does not hear.
OBEDIENT = ("sh", "-c", "trap exit TERM; sleep 100000 & wait")
STUBBORN = ("sleep", "100000")


class Stage:
    """A daemon, behind a proxy to containerd, with one container that nothing is done to."""

    def __init__(self, containerd: Containerd, tiny_image: Path) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="wc"))
        self.proxy = ContainerdProxy(self.root / "proxy.sock", containerd.address)
        self.containerd = containerd
        self.namespace = containerd.new_namespace()
        self.node = WarrenNode(self.proxy.address, self.namespace, self.root)
        self.api = Api(self.node.socket)
        self.node.up()
        self.node.ctl("image", "load", "-i", str(tiny_image))
        self.create("bystander")
        eventually(lambda: self.runs("bystander"), "the bystander runs")
        (self.bystander,) = self.ids("bystander")
        self.bystander_pid = self.tasks()[self.bystander]

    def creation(
        self,
        name: str,
        replicas: int = 1,
        command: Iterable[str] = OBEDIENT,
        restart: objects_pb2.RestartCondition.ValueType = objects_pb2.RESTART_CONDITION_ANY,
        stop_timeout_ms: int = 10_000,
    ) -> api_pb2.CreateServiceRequest:
        """The request that creates a service."""
        container = objects_pb2.ContainerSpec(
            image=IMAGE, command=command, restart=restart, stop_timeout_ms=stop_timeout_ms
        )
        spec = objects_pb2.ServiceSpec(
            name=name,
            mode=objects_pb2.SERVICE_MODE_REPLICATED,
            replicas=replicas,
            container=container,
        )
        return api_pb2.CreateServiceRequest(request=self.api.request_id(), spec=spec)

    def removal(self, name: str) -> api_pb2.RemoveServiceRequest:
        """The request that removes a service."""
        service = self.api.services()[name]
        return api_pb2.RemoveServiceRequest(request=self.api.request_id(), service_id=service.id)

    def create(self, name: str, **how: Any) -> None:
        """Have the creation acknowledged; wait for nothing."""
        self.api.call("CreateService", self.creation(name, **how))

    def remove(self, name: str) -> None:
        """Have the removal acknowledged; wait for nothing."""
        self.api.call("RemoveService", self.removal(name))

    def states(self, name: str) -> list[str]:
        """The states of the containers of a service."""
        return [state_of(container) for container in self.api.containers(name)]

    def runs(self, name: str, replicas: int = 1) -> bool:
        """All its replicas run, as the service is now."""
        containers = self.api.containers(name)
        digest = self.api.services()[name].spec_digest
        return len(containers) == replicas and all(
            state_of(container) == "running" and container.spec_digest == digest
            for container in containers
        )

    def gone(self, name: str) -> bool:
        return name not in self.api.services()

    def ids(self, name: str) -> list[str]:
        """The containers of a service."""
        return [container.id.hex() for container in self.api.containers(name)]

    def tasks(self) -> dict[str, int]:
        """What runs in containerd: the pid by container id."""
        return runtime_tasks(self.containerd.address, self.namespace)

    def restart(self) -> None:
        """After a kill; the proxy forwards again."""
        self.proxy.arm(None)
        self.node.start()
        self.node.wait_ready()

    def check_nothing_strayed(self, *services: str) -> None:
        """The bystander kept its process, and there is a task for what is said to run only."""
        assert self.tasks().get(self.bystander) == self.bystander_pid, "the bystander was restarted"

        def wanted() -> set[str]:
            return {self.bystander, *(one for name in services for one in self.ids(name))}

        eventually(
            lambda: self.tasks().keys() == wanted(), f"only the bystander and {services} run"
        )

        missed = self.node.metric("warren_reconciler_missed_total")
        assert missed == 0, "the sweep found what nobody had marked"

    def close(self) -> None:
        """Remove everything; nothing may be left of it."""
        if not self.node.alive():
            self.restart()
        self.proxy.arm(None)
        self.node.close()
        self.proxy.close()
        self.containerd.assert_nothing_left(self.namespace)


def state_of(container: objects_pb2.Container) -> str:
    """The state as `warrenctl` says it: `running`."""
    name = objects_pb2.ContainerState.Name(container.status.state)
    return name.removeprefix("CONTAINER_STATE_").lower()
