"""The system calls of processes: as they were made, and made to fail or to be slow."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.node import eventually

# Everything by which a process changes files, their names, or what of both is durable.
CHANGES = (
    "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,fallocate,"
    "copy_file_range,sendfile,rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,"
    "symlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,sync_file_range,sync,syncfs,mmap,io_uring_setup"
)
DATA_MAX_BYTES = 1 << 16

_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(.*)", re.DOTALL)
_UNFINISHED = re.compile(r"(\d+) +(\w+\(.*) <unfinished \.\.\.>", re.DOTALL)
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """One that succeeded. `args` as strace writes them, see `path` and `data`."""

    name: str
    args: Sequence[str]
    result: int


def traced(command: Sequence[str], record: Path, *, cwd: Path) -> list[Call]:
    """Run it to its end, which has to be a success; its calls."""
    subprocess.run(
        ["strace", "-f", "-y", "-xx", "--seccomp-bpf", f"-s{DATA_MAX_BYTES}", "-o", str(record),
         "-e", f"trace={CHANGES}", "-e", "signal=none", *command],
        check=True,
        cwd=cwd,
    )  # fmt: skip
    return list(_calls(record))


@contextmanager
def injected(pid: int, call: str, what: str, *paths: Path) -> Iterator[None]:
    """Meanwhile `what` (as in `delay_enter=1s`) is done to each `call` of a running process.

    `paths`: only where one of these files is concerned.
    """
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-o", "/dev/null", *(f"-P{path}" for path in paths),
         "-e", f"trace={call}", "-e", f"inject={call}:{what}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(lambda: tracer_of(pid) == tracer.pid, "strace is attached")
        yield
    finally:
        tracer.terminate()
        tracer.wait(10)


def tracer_of(pid: int) -> int:
    """The process that traces every thread of `pid`; 0 while some thread is not traced."""
    tracers = {
        int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("TracerPid:")
    }
    return tracers.pop() if len(tracers) == 1 else 0


def path(arg: str) -> str:
    """The path in an argument, be it a string or a descriptor: `3</a/b>`."""
    return data(arg[arg.find("<") + 1 : arg.rfind(">")] if arg.endswith(">") else arg).decode()


def data(arg: str) -> bytes:
    """The bytes of a string, which must not have been cut off."""
    assert not arg.endswith("..."), "strace cut a string off; raise DATA_MAX_BYTES"
    return bytes.fromhex(arg.strip('"').replace("\\x", ""))


def _calls(record: Path) -> Iterator[Call]:
    begun: dict[str, str] = {}
    with record.open(encoding="ascii") as lines:
        for line in lines:
            if unfinished := _UNFINISHED.match(line):
                begun[unfinished[1]] = unfinished[2]
                continue
            if resumed := _RESUMED.match(line):
                line = f"{resumed[1]} {begun.pop(resumed[1])}{resumed[2]}"
            if (match := _LINE.match(line)) and match[4].isdigit():
                # Strings are all hexadecimal escapes: no comma is inside of one.
                yield Call(match[2], match[3].split(", "), int(match[4]))
