"""A one-node cluster with a sample service, for a look at Warren: `make run` and `make stop`.

    run_one_node.py start    brings it up; again and again if need be
    run_one_node.py stop     stops it and removes everything it left

Everything is kept under ``.warren/`` in the checkout; WARREN_STATE names another directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import grpc  # noqa: E402 (the path above has to come first)

from examples import sample_image  # noqa: E402
from scripts.background import Background, RunError, eventually  # noqa: E402

STATE = Path(os.environ.get("WARREN_STATE") or ROOT / ".warren").absolute()
BIN = Path(sys.executable).parent
NOTES = STATE / "run.json"
SOCKET = STATE / "warren.sock"
PRIVATE_CONTAINERD = STATE / "containerd.sock"
HOST_CONTAINERD = Path("/run/containerd/containerd.sock")

#: unix(7): 108 bytes with the terminating zero. containerd adds `.ttrpc` to its own.
SOCKET_PATH_BYTES_MAX = 107

SERVICE = "hello"
IMAGE = "sample:latest"


def main() -> int:
    """Does what the command line says; 0 if it worked."""
    commands = {"start": start, "stop": stop}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        if os.geteuid() != 0:
            raise RunError("containers need root: run it as root, as in `sudo make run`")
        commands[sys.argv[1]]()
    except RunError as failure:
        print(f"\nrun: {failure}", file=sys.stderr)
        return 1
    return 0


def start() -> None:
    """Brings up containerd, the daemon, the cluster and the service, as far as they are not up."""
    longest = len(os.fsencode(PRIVATE_CONTAINERD)) + len(".ttrpc")
    if longest > SOCKET_PATH_BYTES_MAX:
        raise RunError(
            f"{STATE} is {longest - SOCKET_PATH_BYTES_MAX} bytes too long to hold Unix sockets; "
            f"name a shorter directory: WARREN_STATE=/var/tmp/warren make run"
        )
    STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    notes = read_notes()
    start_containerd(notes)
    start_daemon(notes)
    warrenctl("cluster", "init", may=(5,))
    eventually(lambda: http(notes, "/ready")[0] == 200, f"/ready: {http(notes, '/ready')[1]}", 30)
    archive = sample_image.write(STATE / "sample.tar")
    warrenctl("image", "load", "-i", str(archive))
    deploy(notes)
    show(notes)


def start_containerd(notes: dict[str, Any]) -> None:
    """Uses the host's containerd if one answers, else starts a private one under the state."""
    if "containerd" not in notes:
        found = containerd_answers(HOST_CONTAINERD)
        notes["containerd"] = str(HOST_CONTAINERD if found else PRIVATE_CONTAINERD)
        write_notes(notes)
    address = Path(notes["containerd"])
    if address == PRIVATE_CONTAINERD:
        private = Background(STATE, "containerd")
        say(f"containerd: a private one under {STATE}")
        config = STATE / "containerd.toml"
        config.write_text(
            "version = 2\n"
            f'root = "{STATE}/containerd"\n'
            f'state = "{STATE}/containerd-run"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{address}"\n'
        )
        private.start(["containerd", "--config", str(config)], system_environment())
        wait_for(lambda: containerd_answers(address), private, 20)
    else:
        say(f"containerd: the host's, at {address}")
        if not containerd_answers(address):
            raise RunError(
                f"containerd no longer answers at {address}; start it again "
                f"(systemctl start containerd), or begin anew: rm -rf {STATE}"
            )


def start_daemon(notes: dict[str, Any]) -> None:
    """Starts warrend and waits until it serves."""
    notes.setdefault("metrics_port", free_port(9090))
    notes.setdefault("namespace", f"warren-{hashlib.sha256(os.fsencode(STATE)).hexdigest()[:8]}")
    write_notes(notes)
    config = STATE / "warrend.toml"
    config.write_text(
        f'data_dir = "{STATE}/data"\n'
        f'socket = "{SOCKET}"\n'
        f'metrics_addr = "127.0.0.1:{notes["metrics_port"]}"\n'
        f'containerd_address = "{notes["containerd"]}"\n'
        f'containerd_namespace = "{notes["namespace"]}"\n'
    )
    daemon = Background(STATE, "warrend")
    daemon.start([str(BIN / "warrend"), "--config", str(config)], system_environment())
    wait_for(lambda: http(notes, "/live")[0] == 200 and SOCKET.exists(), daemon, 30)
    say(f"warrend: pid {daemon.pid()}, log {daemon.log}")


def deploy(notes: dict[str, Any]) -> None:
    """Creates the sample service unless it is there."""
    if warrenctl("service", "inspect", SERVICE, "--format", "json", may=(4,)).returncode == 0:
        return
    notes["port"] = free_port(8080)
    write_notes(notes)
    flags = ("--image", IMAGE, "--network", "host", "--env", f"PORT={notes['port']}")
    warrenctl("service", "create", SERVICE, *flags, "--memory", "32m")


def show(notes: dict[str, Any]) -> None:
    """Fetches the page and prints it, what runs, and how to go on."""
    url = f"http://127.0.0.1:{notes['port']}/"
    page: list[str] = []

    def served() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                page[:] = [answer.read().decode().strip()]
        except OSError:
            return False
        return True

    eventually(served, f"{url} to answer (see `warrenctl service ps {SERVICE}`)", 30)
    print(f"\n$ curl {url}\n{page[0]}\n\n$ warrenctl service ps {SERVICE}")
    print(warrenctl("service", "ps", SERVICE).stdout)
    print(f'Go on:       export PATH="{BIN}:$PATH" WARREN_HOST=unix://{SOCKET}; warrenctl --help')
    named = f"WARREN_STATE={STATE} " if os.environ.get("WARREN_STATE") else ""
    print(f"Remove all:  {named}make stop")


def stop() -> None:
    """Removes every service, then the daemon, then what containerd holds, then the state."""
    if not NOTES.exists():
        say(f"nothing to stop: {STATE} holds no cluster")
        return
    notes = read_notes()
    if "namespace" in notes:
        start_containerd(notes)
        remove_services(notes)
        Background(STATE, "warrend").stop(timeout_s=10)
        empty_namespace(notes)
    Background(STATE, "containerd").stop(timeout_s=10)
    for mount in mounts_below(STATE):
        subprocess.run(["umount", mount], check=True, timeout=30)
    shutil.rmtree(STATE)
    # Even a private containerd keeps runc's state outside of its own directories.
    shutil.rmtree(f"/run/containerd/runc/{notes.get('namespace', 'none')}", ignore_errors=True)
    remove_empty_cgroups()
    say(f"stopped; {STATE} is gone")


def remove_services(notes: dict[str, Any]) -> None:
    """Asks the daemon to remove all services, which stops their containers."""
    if Background(STATE, "warrend").pid() is None:
        start_daemon(notes)
    listed = warrenctl("service", "ls", "--format", "json", may=(1, 3, 4))
    names = [service["name"] for service in json.loads(listed.stdout or "[]")]
    if names:
        say(f"removing {', '.join(names)}")
        warrenctl("service", "rm", *names, may=(1,))


def empty_namespace(notes: dict[str, Any]) -> None:
    """Removes images, content and the namespace, so that the host's containerd is as before."""
    ctr = ["ctr", "--address", notes["containerd"], "--namespace", notes["namespace"]]

    def listed(*what: str) -> list[str]:
        done = subprocess.run(
            [*ctr, *what, "ls", "-q"], capture_output=True, timeout=30, check=False
        )
        return done.stdout.decode().split()

    def run(*what: str) -> None:
        subprocess.run([*ctr, *what], capture_output=True, timeout=60, check=False)

    for task in listed("tasks"):
        run("tasks", "delete", "--force", task)
    for container in listed("containers"):
        run("containers", "delete", container)
    images = listed("images")
    if images:
        # --sync: content and snapshots of the images go with them.
        run("images", "delete", "--sync", *images)
    for lease in listed("leases"):
        run("leases", "delete", "--sync", lease)
    run("namespaces", "remove", notes["namespace"])


def remove_empty_cgroups() -> None:
    """Removes the cgroup above all containers, unless another daemon of this host has some."""
    root = Path("/sys/fs/cgroup")
    for folder in (root / "warren", *root.glob("*/warren")):
        # The kernel refuses while there are children.
        with contextlib.suppress(OSError):
            folder.rmdir()


def warrenctl(*words: str, may: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs warrenctl; RunError unless it exits with 0 or a code in ``may``."""
    done = subprocess.run(
        [str(BIN / "warrenctl"), "--host", f"unix://{SOCKET}", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode not in (0, *may):
        raise RunError(f"warrenctl {' '.join(words)} said: {done.stderr.strip()}")
    return done


def http(notes: dict[str, Any], path: str) -> tuple[int, str]:
    """Status and body of the daemon's HTTP endpoint; 0 while nothing listens."""
    url = f"http://127.0.0.1:{notes['metrics_port']}{path}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def containerd_answers(address: Path) -> bool:
    """Whether containerd's API is served at ``address``."""
    if not address.is_socket():
        return False
    with grpc.insecure_channel(f"unix://{address}") as channel:
        version = channel.unary_unary("/containerd.services.version.v1.Version/Version")
        try:
            version(b"", timeout=3)
        except grpc.RpcError:
            return False
    return True


def wait_for(holds: Any, process: Background, timeout_s: float) -> None:
    """Waits until ``holds()``; RunError, with the end of the log, if that does not come about."""

    def up() -> bool:
        if process.pid() is None:
            raise RunError(f"{process.name} has ended; its last words:\n{process.tail()}")
        return bool(holds())

    try:
        eventually(up, f"{process.name} to answer", timeout_s)
    except RunError as failure:
        raise RunError(f"{failure}\nIts log, {process.log}, ends with:\n{process.tail()}") from None


def system_environment() -> dict[str, str]:
    """The environment, with the directories of system programs on the path: runc is in one."""
    path = os.environ.get("PATH", "")
    return {**os.environ, "PATH": f"{path}:/usr/local/sbin:/usr/sbin:/sbin"}


def free_port(preferred: int) -> int:
    """``preferred`` if nobody listens on it, else some free TCP port."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RunError("no TCP port is free; close something that listens")


def mounts_below(folder: Path) -> list[str]:
    """Mount points under ``folder``, innermost first (proc(5), mounts)."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].replace("\\040", " ") for line in lines]
    return sorted((p for p in points if Path(p).is_relative_to(folder)), reverse=True)


def read_notes() -> dict[str, Any]:
    """What earlier runs decided: ports, namespace, which containerd."""
    return dict(json.loads(NOTES.read_text())) if NOTES.exists() else {}


def write_notes(notes: dict[str, Any]) -> None:
    """Keeps the decisions for the next run."""
    NOTES.write_text(json.dumps(notes, indent=1) + "\n")


def say(what: str) -> None:
    """One line of progress, with the time of day."""
    print(f"run: {time.strftime('%H:%M:%S')} {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
