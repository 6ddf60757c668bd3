"""The Rust core. `warren.core` is its only importer."""

from collections.abc import Callable
from os import PathLike
from typing import Any, Final, final

__all__ = [
    "CALLS_MAX",
    "CODES",
    "KIND_END",
    "KIND_ERROR",
    "KIND_ITEM",
    "KIND_LOG",
    "KIND_RESPONSE",
    "REQUEST_BYTES_MAX",
    "STREAMS_MAX",
    "Core",
    "CoreError",
    "dump_log",
    "inspect_backup",
    "measure",
    "parse_spiffe",
    "verify_log",
]

CODES: Final[tuple[str, ...]]
CALLS_MAX: Final[int]
STREAMS_MAX: Final[int]
REQUEST_BYTES_MAX: Final[int]
KIND_RESPONSE: Final[int]
KIND_ERROR: Final[int]
KIND_ITEM: Final[int]
KIND_END: Final[int]
KIND_LOG: Final[int]

class CoreError(Exception):
    """A refusal; `args` is (code, message)."""

@final
class Core:
    @staticmethod
    def open(
        raft_dir: str | PathLike[str],
        node_id: bytes,
        node_name: str,
        advertise_addr: str,
        segment_bytes: int,
        *,
        peer_listen: str | None = None,
        peer_address: str | None = None,
        tls_ca: str | PathLike[str] | None = None,
        tls_cert: str | PathLike[str] | None = None,
        tls_key: str | PathLike[str] | None = None,
    ) -> Core: ...
    @staticmethod
    def join(
        raft_dir: str | PathLike[str],
        node_id: bytes,
        node_name: str,
        advertise_addr: str,
        segment_bytes: int,
        *,
        cluster_id: bytes,
        epoch: int,
        member_id: int,
        data_dir: bytes,
        peer_listen: str | None = None,
        peer_address: str | None = None,
        tls_ca: str | PathLike[str] | None = None,
        tls_cert: str | PathLike[str] | None = None,
        tls_key: str | PathLike[str] | None = None,
    ) -> Core: ...
    @staticmethod
    def restore(
        raft_dir: str | PathLike[str],
        node_id: bytes,
        node_name: str,
        advertise_addr: str,
        segment_bytes: int,
        *,
        file: str | PathLike[str],
        epoch_min: int,
        cluster_id: bytes | None,
        peer_listen: str | None = None,
        peer_address: str | None = None,
        tls_ca: str | PathLike[str] | None = None,
        tls_cert: str | PathLike[str] | None = None,
        tls_key: str | PathLike[str] | None = None,
    ) -> tuple[Core, bytes]: ...
    @staticmethod
    def recover_quorum(
        raft_dir: str | PathLike[str],
        node_id: bytes,
        node_name: str,
        advertise_addr: str,
        segment_bytes: int,
        *,
        peer_listen: str | None = None,
        peer_address: str | None = None,
        tls_ca: str | PathLike[str] | None = None,
        tls_cert: str | PathLike[str] | None = None,
        tls_key: str | PathLike[str] | None = None,
    ) -> tuple[Core, bytes]: ...
    def fileno(self) -> int: ...
    def submit(
        self, identity: str, method: str, body: bytes, timeout_ms: int, stale: bool
    ) -> int: ...
    def backup(
        self, identity: str, file: str | PathLike[str], timeout_ms: int, stale: bool
    ) -> int: ...
    def subscribe(self, identity: str, method: str, body: bytes) -> int: ...
    def cancel(self, number: int) -> None: ...
    def taken(self, number: int) -> None: ...
    def drain(self, limit: int) -> list[tuple[int, int, bytes]]: ...
    def pulse(self) -> None: ...
    def set_verbose(self, verbose: bool) -> None: ...
    def status(self) -> dict[str, int | bool]: ...
    def metrics(self, fine: bool) -> bytes: ...
    def shutdown(self, timeout_ms: int) -> bool: ...

def inspect_backup(file: str | PathLike[str]) -> bytes: ...
def measure(on: bool) -> None: ...
def parse_spiffe(uri: str) -> tuple[str, str, str]: ...
def verify_log(wal_dir: str | PathLike[str]) -> dict[str, Any]: ...
def dump_log(
    wal_dir: str | PathLike[str],
    from_index: int,
    limit: int | None,
    with_payload: bool,
    sink: Callable[[list[tuple[Any, ...]]], object],
) -> dict[str, Any] | None: ...
