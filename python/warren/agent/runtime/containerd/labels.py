"""The labels by which what is ours is known in containerd, and told apart."""

from __future__ import annotations

from typing import Final

from warren.agent.runtime.base import ContainerRequest

LABEL_NODE: Final = "warren.node"
LABEL_CONTAINER: Final = "warren.container"
LABEL_ATTEMPT: Final = "warren.attempt"
LABEL_SERVICE: Final = "warren.service"
LABEL_SLOT: Final = "warren.slot"
LABEL_SPEC: Final = "warren.spec"
LABEL_IMAGE: Final = "warren.image"
"""The digest of the image that a container runs; its name may move to another."""

GC_ROOT: Final = "containerd.io/gc.root"
"""A snapshot with it is not collected, also while no container names it."""


def of(request: ContainerRequest, node_id: str) -> dict[str, str]:
    """The labels of a container and of its snapshot."""
    return {
        LABEL_NODE: node_id,
        LABEL_CONTAINER: request.id,
        LABEL_ATTEMPT: str(request.attempt),
        LABEL_SERVICE: request.service_name,
        LABEL_SLOT: str(request.slot),
        LABEL_SPEC: request.spec_digest,
    }


def mine(node_id: str) -> str:
    """containerd's filter for what carries this node's id."""
    return f'labels."{LABEL_NODE}"=="{node_id}"'
