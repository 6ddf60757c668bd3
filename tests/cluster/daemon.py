"""`warrend` as test clusters start it: the same program, with seams that no user has.

    python -m tests.cluster.daemon FOLDER [warrend's own arguments]

FOLDER/simulated, if it is there, holds this host's containers in place of containerd's; FOLDER/
control is a datagram socket on which tests ask for what cannot be done from outside (`Command`).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import sys
from pathlib import Path
from typing import Any

from tests.cluster.simulated import KeptRuntime, behave
from warren import daemon, daemon_parts

COMMAND_BYTES_MAX = 256


def main() -> int:
    """Runs `warrend` until it ends; its exit code."""
    folder = Path(sys.argv[1])
    if (folder / "simulated").is_dir():

        def simulated(**_: Any) -> KeptRuntime:
            runtime = KeptRuntime(folder / "simulated", behave)
            _listen(folder / "control", runtime)
            return runtime

        daemon_parts.ContainerdRuntime = simulated  # type: ignore[misc, assignment]
    return daemon.main(sys.argv[2:])


def _listen(path: Path, runtime: KeptRuntime) -> None:
    path.unlink(missing_ok=True)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    control.bind(os.fspath(path))
    control.setblocking(False)

    def obey() -> None:
        verb, *words = control.recv(COMMAND_BYTES_MAX).decode().split()
        if verb == "block":
            block(float(words[0]))
        elif verb == "end":
            runtime.end(words[0], int(words[1]))

    asyncio.get_running_loop().add_reader(control.fileno(), obey)


def block(seconds: float) -> None:
    """Holds the interpreter's lock, as an extension that forgot to let go of it would."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


if __name__ == "__main__":
    sys.exit(main())
