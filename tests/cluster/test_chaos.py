"""Chaos itself works, for some seconds; `make chaos` has the long runs."""

from __future__ import annotations

import secrets

from tests.cluster import chaos

SECONDS = 20


async def test_nothing_is_wrong_after_some_seconds_of_it() -> None:
    seed = secrets.randbelow(1 << 32)
    print(f"seed: {seed}")
    wrong = await chaos.rehearse(seed, SECONDS)
    assert wrong == [], f"again with: make chaos SECONDS={SECONDS} SEED={seed}"
