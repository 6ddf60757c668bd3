"""What is simulated."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

__all__ = ["IMAGE", "IMAGE_DIGEST", "Plan"]

IMAGE: Final = "docker.io/library/simulated:1"
IMAGE_DIGEST: Final = f"sha256:{'5' * 64}"


@dataclass(frozen=True)
class Plan:
    """Rates are means of exponential times; 0 hours: it never fails."""

    nodes: int = 1_000
    node_cpu_milli: int = 16_000
    node_memory_bytes: int = 64 << 30
    #: Hosts take turns: label `zone` is z1, z2, …
    zones: int = 3
    services: int = 100
    #: Of each service.
    replicas: int = 10
    container_cpu_milli: int = 250
    container_memory_bytes: int = 512 << 20
    start_s: float = 0.5
    stop_s: float = 0.2
    #: A container runs so long between two failures.
    container_mtbf_h: float = 0.0
    #: A host stands so long between two failures, and is away for so long.
    node_mtbf_h: float = 0.0
    node_down_s: float = 60.0
    #: Services that get another number of replicas, within a tenth of what they had first.
    scalings_per_minute: float = 0.0
    seconds: float = 60.0
    seed: int = 1

    def stream(self, purpose: str) -> random.Random:
        """Randomness for one purpose: a draw more here moves nothing there."""
        return random.Random(f"{self.seed}/{purpose}")  # noqa: S311 - to be replayed
