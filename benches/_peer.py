"""Members of a cluster as bare processes: the example `warren_peer`, driven over its stdin."""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, TypeVar

from benches._common import ROOT
from warren._histogram import Histogram

ANSWER_TIMEOUT_S = 180
T = TypeVar("T")


@cache
def built(example: str, *, quick: bool) -> Path:
    """A program of the crate; not optimised for a quick run, as the tests have it already."""
    command = ["cargo", "build", "--locked", "--quiet", "-p", "warren_core"]
    command += ["--example", example, *([] if quick else ["--release"])]
    subprocess.run(command, cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / ("debug" if quick else "release") / "examples" / example


@contextmanager
def workspace() -> Iterator[Path]:
    """A directory on the disk that is measured: TMPDIR, or the checkout's own if that is memory."""
    base = os.environ.get("TMPDIR") or "/var/tmp"
    path = Path(tempfile.mkdtemp(prefix="warren-bench-", dir=base))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    """A port below the range that the kernel picks from for outgoing connections."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    start = 20000 + os.getpid() % 1000
    for port in range(start, low):
        if port in _handed_out:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _handed_out.add(port)
            return port
    raise RuntimeError("no free port on the loopback interface")


_handed_out: set[int] = set()


class RefusedError(RuntimeError):
    """A member answered with an error."""


class Peer:
    """One member."""

    def __init__(self, program: Path, directory: Path, number: int) -> None:
        self._program, self.directory, self.number = program, directory / f"m{number}", number
        self.address = f"127.0.0.1:{free_port()}"
        self._pipes: list[IO[bytes]] = []

    def join(self, founder: Peer) -> None:
        """Become a member of another's cluster."""
        add = f"add {secrets.token_hex(16)} {self.number} {self.address}"
        self.spawn("--join", str(until(lambda: _admitted(founder, add))["join"]))

    def spawn(self, *options: str) -> None:
        """Start, or start again after `kill`."""
        log = self.directory.with_suffix(".log").open("ab")
        self._process = subprocess.Popen(
            [str(self._program), "--dir", str(self.directory), "--number", str(self.number),
             "--address", self.address, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
        )  # fmt: skip
        log.close()
        self._pipes += [pipe for pipe in (self._process.stdin, self._process.stdout) if pipe]
        self._received = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, command: str) -> None:
        """Send a command; `answer` must follow."""
        assert self._process.stdin
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the oldest command without one: a dictionary, but for `metrics`."""
        lines: list[bytes] = []
        while not lines:
            if not select.select([self], [], [], ANSWER_TIMEOUT_S)[0]:
                raise TimeoutError(f"member {self.number} did not answer")
            lines = self.lines()
            if not lines and self._process.poll() is not None:
                raise RuntimeError(f"member {self.number} ended: {self._process.returncode}")
        (line,) = lines
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise RefusedError(f"member {self.number}: {answer['error']}")
        return answer

    def fileno(self) -> int:
        """Readable when the member has said something, or has ended."""
        assert self._process.stdout
        return self._process.stdout.fileno()

    def lines(self) -> list[bytes]:
        """What it has said since the last time, in whole lines; waits for something."""
        more = os.read(self.fileno(), 1 << 20)
        *lines, self._received = (self._received + more).split(b"\n")
        return lines

    def ask(self, command: str) -> Any:
        self.tell(command)
        return self.answer()

    def cpu_ns(self) -> tuple[int, int]:
        """Processor time so far: of the thread that makes the load, and of all the others."""
        load = others = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(FileNotFoundError):
                spent_ns = int((task / "schedstat").read_text().split()[0])
                if int(task.name) == self.pid:
                    load += spent_ns
                else:
                    others += spent_ns
        return load, others

    def kill(self) -> None:
        """As the kernel would: no goodbye."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin
        self._process.stdin.close()

    def close(self) -> None:
        """End cleanly; by force if that takes long."""
        if self._process.poll() is None:
            assert self._process.stdin
            self._process.stdin.close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        # What a killed one had said can be read until here.
        for pipe in self._pipes:
            pipe.close()


def histogram(loads: list[dict[str, Any]]) -> Histogram:
    """The latencies of several loads as one."""
    merged = Histogram()
    for load in loads:
        if load["refused"]:
            raise RuntimeError(f"calls were refused: {load['refused']}")
        for bound_ns, count in load["buckets"]:
            for _ in range(count):
                merged.observe_ns(bound_ns)
    return merged


def rate(loads: list[dict[str, Any]]) -> float:
    """Calls per second, of loads that ran one after the other."""
    return float(sum(load["done"] for load in loads) / sum(load["seconds"] for load in loads))


def processor_time(
    peers: list[Peer], work: Callable[[], list[dict[str, Any]]]
) -> tuple[list[dict[str, Any]], str]:
    """What `work` answered, and what each of its calls cost the machine, in words."""
    before = [peer.cpu_ns() for peer in peers]
    loads = work()
    after = [peer.cpu_ns() for peer in peers]
    done = sum(load["done"] for load in loads)
    load_ns, others_ns = (
        sum(b[i] - a[i] for a, b in zip(before, after, strict=True)) for i in range(2)
    )
    share = load_ns / (load_ns + others_ns)
    return loads, (
        f"{(load_ns + others_ns) / done / 1000:.1f} µs of processor time a call, "
        f"{share:.0%} of it in the load's own thread"
    )


@contextmanager
def members(count: int, *, quick: bool) -> Iterator[list[Peer]]:
    """A cluster of that many; the first one founded it and leads. All are voters and caught up."""
    program = built("warren_peer", quick=quick)
    with workspace() as directory:
        founder, *others = [Peer(program, directory, number + 1) for number in range(count)]
        started = []
        try:
            founder.spawn()
            started.append(founder)
            founder.ask("found")
            for peer in others:
                peer.join(founder)
                started.append(peer)
                until(partial(_votes, founder, len(started)))
            yield started
        finally:
            for peer in started:
                peer.close()


def _admitted(founder: Peer, add: str) -> dict[str, Any] | None:
    """Nothing while the change before this one is still under way."""
    try:
        return founder.ask(add)
    except RefusedError as refused:
        if "overloaded" in str(refused):
            return None
        raise


def _votes(leader: Peer, count: int) -> bool | None:
    return leader.ask("status")["voters"] == count or None


def until(found: Callable[[], T | None]) -> T:
    """Ask until there is something, for a minute at most."""
    deadline = time.monotonic() + 60
    while (answer := found()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError("a member was not ready within a minute")
        time.sleep(0.02)
    return answer
