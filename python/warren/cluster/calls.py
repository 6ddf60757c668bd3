"""Calls to whichever manager can answer: the next one where one is gone, again where it passes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from warren import rpc
from warren.channels import Channels
from warren.errors import WarrenError

__all__ = ["ask"]

_PAUSE_S: Final = 0.1
_ATTEMPT_TIMEOUT_S: Final = 5.0
# Of the moment; what is asked here may be asked twice, and has one effect.
_PASSING: Final = frozenset(
    {"no_leader", "not_leader", "handing_over", "overloaded", "shutting_down", "outcome_unknown"}
)
# This one cannot answer; another one may.
_ELSEWHERE: Final = frozenset({"unavailable", "worker_only", "not_in_cluster", "member_removed"})


async def ask(
    channels: Channels,
    addresses: Sequence[str],
    method: str,
    request: Message,
    timeout_s: float,
) -> Any:
    """The answer of one of the managers at `addresses` within `timeout_s`.

    For calls that may be repeated. WarrenError, with what would help.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    leader, last = "", WarrenError("unavailable", "no manager is known to this host")
    turn = 0
    while (left := deadline - loop.time()) > 0:
        if not addresses:
            break
        address, leader = leader or addresses[turn % len(addresses)], ""
        try:
            stub = rpc.Stub(channels.get(address), rpc.MANAGER)
            return await getattr(stub, method)(request, timeout=min(left, _ATTEMPT_TIMEOUT_S))
        except grpc.RpcError as error:
            last = rpc.failure(error)
        turn += 1
        if last.code in _ELSEWHERE:
            last = await _explained(channels, address, last)
            if turn >= len(addresses) and len(addresses) == 1:
                break
        elif last.code not in _PASSING:
            break
        leader = last.leader_address
        await asyncio.sleep(_PAUSE_S)
    raise last


async def _explained(channels: Channels, address: str, error: WarrenError) -> WarrenError:
    if error.code != "unavailable":
        return error
    why = await channels.explain(address)
    return WarrenError(error.code, why) if why else error
