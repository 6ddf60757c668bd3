"""containerd: whether it answers, its version, and whether it has the snapshotter."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warren.doctor.verdict import FAILED, OK, SKIPPED, WARNING, Readings, Verdict

__all__ = ["Containerd", "answers", "read_containerd", "snapshotter"]

SNAPSHOTTER: Final = "overlayfs"
_OLDEST: Final = (1, 6)
_TIMEOUT_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Containerd:
    """`trouble`: why its socket gives no answer; `snapshotter_trouble`: why that one is unusable.

    `denied`: this user may not ask.
    """

    address: str
    trouble: str = ""
    denied: bool = False
    version: str = ""
    snapshotter_trouble: str = ""


def answers(found: Containerd) -> Verdict:
    """Whether it is there, and new enough."""
    readings: Readings = {"address": found.address, "version": found.version or None}
    if found.denied:
        words = f"may not ask at {found.address}"
        return Verdict("containerd", SKIPPED, words, "run this command as root", readings)
    if found.trouble:
        return Verdict(
            "containerd",
            FAILED,
            f"no answer at {found.address}: {found.trouble}",
            "start it (systemctl start containerd), or name its socket: containerd_address",
            readings,
        )
    match = re.match(r"v?(\d+)\.(\d+)", found.version)
    words = f"{found.version} answers at {found.address}"
    if match and (int(match[1]), int(match[2])) < _OLDEST:
        advice = f"upgrade to {_OLDEST[0]}.{_OLDEST[1]} or later: Warren is not tried on older ones"
        return Verdict("containerd", WARNING, words, advice, readings)
    return Verdict("containerd", OK, words, "", readings)


def snapshotter(found: Containerd) -> Verdict:
    """Whether it can make the root file systems that Warren asks for."""
    name = "containerd.snapshotter"
    readings: Readings = {"snapshotter": SNAPSHOTTER}
    if found.trouble or found.denied:
        return Verdict(name, SKIPPED, "containerd was not asked", "", readings)
    if found.snapshotter_trouble:
        return Verdict(
            name,
            FAILED,
            f"{SNAPSHOTTER} cannot be used: {found.snapshotter_trouble}",
            f"see why it was not loaded: ctr plugins ls | grep {SNAPSHOTTER}; kernel.overlayfs "
            "above tells of the kernel's part",
            readings,
        )
    return Verdict(name, OK, f"{SNAPSHOTTER} answers", "", readings)


def read_containerd(address: Path, namespace: str) -> Containerd:
    """Asks its socket. `namespace`: where the snapshotter is asked for what it holds."""
    where = str(address)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_TIMEOUT_S)
        try:
            probe.connect(where)
        except PermissionError:
            return Containerd(where, denied=True)
        except OSError as error:
            return Containerd(where, trouble=error.strerror or str(error))
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc

    with grpc.insecure_channel(f"unix:{where}") as channel:
        try:
            version = _version(channel)
        except grpc.RpcError as error:
            return Containerd(where, trouble=_why(error))
        try:
            _list_snapshots(channel, namespace)
        except grpc.RpcError as error:
            return Containerd(where, version=version, snapshotter_trouble=_why(error))
    return Containerd(where, version=version)


def _version(channel: object) -> str:
    from google.protobuf import empty_pb2

    from warren.pb.containerd import version_pb2

    call = channel.unary_unary(  # type: ignore[attr-defined] # gRPC has no types
        "/containerd.services.version.v1.Version/Version",
        request_serializer=empty_pb2.Empty.SerializeToString,
        response_deserializer=version_pb2.VersionResponse.FromString,
    )
    return str(call(empty_pb2.Empty(), timeout=_TIMEOUT_S).version.removeprefix("v"))


def _list_snapshots(channel: object, namespace: str) -> None:
    """Asks for one that cannot be there: `not found` says that the snapshotter is."""
    import grpc

    from warren.pb.containerd import snapshots_pb2

    call = channel.unary_stream(  # type: ignore[attr-defined] # gRPC has no types
        "/containerd.services.snapshots.v1.Snapshots/List",
        request_serializer=snapshots_pb2.ListSnapshotsRequest.SerializeToString,
        response_deserializer=snapshots_pb2.ListSnapshotsResponse.FromString,
    )
    request = snapshots_pb2.ListSnapshotsRequest(
        snapshotter=SNAPSHOTTER, filters=["name==warren-doctor"]
    )
    try:
        for _ in call(request, timeout=_TIMEOUT_S, metadata=(("containerd-namespace", namespace),)):
            return
    except grpc.RpcError as error:
        # A namespace that nobody has written to yet holds nothing.
        if error.code() is not grpc.StatusCode.NOT_FOUND or "snapshotter" in str(error.details()):
            raise


def _why(error: object) -> str:
    code, details = error.code(), error.details()  # type: ignore[attr-defined] # as all of gRPC's
    return f"{details or 'no details'} ({code.name.lower()})"
