"""A cluster that begins a new epoch on this host: what `cluster backup restore` and `recover` ask.

Both leave this host the only manager. Workers follow by the epoch, once they are told where it is.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from warren.cluster.membership import Membership
from warren.errors import WarrenError
from warren.manager.core_port import LOCAL
from warren.pb.v1 import node_pb2

__all__ = ["recover", "restore"]

_JUDGE_TIMEOUT_S: Final = 10.0
_log = logging.getLogger("warren.cluster")


async def restore(here: Membership, file: Path, epoch_min: int) -> node_pb2.RestoreClusterResponse:
    """Manage alone the cluster in the backup at `file`.

    For a host that is in no cluster, or in that one without a manager: its containers stay.
    WarrenError, with what to do; nothing has changed then.
    """
    async with here.lock:
        if here.manages:
            raise WarrenError(
                "already_in_cluster",
                "this host manages a cluster already; restore on one that does not, or stop the "
                "daemon and move `raft` in its data directory away",
            )
        cluster_id = _cluster_wanted(here)
        core = await here.blank_core()
        # Its own worker obeys nothing older: a backup may be restored a second time.
        epoch_min = max(epoch_min, here.worker.epoch + 1)
        done = await core.restore(file, epoch_min, cluster_id)
        answer = node_pb2.RestoreClusterResponse.FromString(done)
        await here.reborn(core, answer.cluster_id)
        _log.warning(
            "this host manages cluster %s alone, in epoch %d, restored from a backup at index %d "
            "of epoch %d",
            answer.cluster_id.hex(),
            answer.epoch,
            answer.backup.index,
            answer.backup.epoch,
        )
        return answer


async def recover(
    here: Membership, request: node_pb2.RecoverQuorumRequest
) -> node_pb2.RecoverQuorumResponse:
    """Manage this host's cluster alone, or say, `dry_run`, from what it would go on.

    WarrenError where the core advises against it, unless `force`.
    """
    async with here.lock:
        judged = await here.seat.call(
            LOCAL, "JudgeRecovery", request.SerializeToString(), _JUDGE_TIMEOUT_S, stale=True
        )
        core = here.seat.core
        if request.dry_run or core is None:
            return node_pb2.RecoverQuorumResponse.FromString(judged)
        answer = node_pb2.RecoverQuorumResponse.FromString(await core.recover_quorum())
        await here.reborn(core, answer.cluster_id)
        _log.warning(
            "this host manages cluster %s alone, in epoch %d, with all of its log up to index %d "
            "of term %d; %d members were left out",
            answer.cluster_id.hex(),
            answer.epoch,
            answer.last_index,
            answer.last_term,
            len(answer.removed),
        )
        return answer


def _cluster_wanted(here: Membership) -> bytes | None:
    """The one that this host belongs to; None for one that belongs to none, or was not told."""
    if here.cluster is None:
        return None
    if here.worker.connected:
        raise WarrenError(
            "already_in_cluster",
            "a manager of this host's cluster answers it, so the cluster is not lost; stop that "
            "one first, or restore on a host that is in no cluster",
        )
    return bytes.fromhex(here.cluster.cluster_id) or None
