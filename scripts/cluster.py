"""A cluster of many hosts on this machine, to play with: `make cluster` and `make cluster-stop`.

    python -m scripts.cluster start [--managers 3] [--workers 3] [--simulated]
    python -m scripts.cluster kill|pause|resume|run HOST     kill -9, SIGSTOP, SIGCONT, start again
    python -m scripts.cluster cut|cut-one-way HOST HOST      between two hosts
    python -m scripts.cluster isolate HOST                   from all others
    python -m scripts.cluster delay HOST --ms 50             every packet, each way
    python -m scripts.cluster heal                           ends cuts and pauses
    python -m scripts.cluster stop                           ends and removes everything
    python -m scripts.cluster sweep                          removes what killed tests left behind

Hosts are m1, m2, … (managers, which are workers too) and w1, w2, … (workers only). Each has a
network namespace with an address of its own; the machine's own interfaces are not touched. All is
kept in .cluster/ in the checkout; WARREN_CLUSTER names another directory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.background import RunError  # noqa: E402 (the path above has to come first)
from tests.cluster import network, remains  # noqa: E402
from tests.cluster.cluster import Cluster  # noqa: E402

STATE = Path(os.environ.get("WARREN_CLUSTER") or ROOT / ".cluster").absolute()
BIN = Path(sys.executable).parent
#: unix(7): 108 bytes with the terminating zero; the longest below STATE is containerd's.
STATE_BYTES_MAX = 107 - len("/containerd/c.sock.ttrpc")


def main() -> int:
    """Does what the command line says; 0 if it worked."""
    options = _parser().parse_args()
    try:
        if os.geteuid() != 0:
            raise RunError("namespaces need root: run it as root, as in `sudo make cluster`")
        if options.verb == "start":
            asyncio.run(start(options.managers, options.workers, simulated=options.simulated))
        elif options.verb == "stop":
            stop()
        elif options.verb == "sweep":
            sweep()
        else:
            fault(options.verb, options.hosts, options.ms)
    except (RunError, AssertionError, OSError) as failure:
        print(f"\ncluster: {failure}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["start", "stop", "sweep", *FAULTS])
    parser.add_argument("hosts", nargs="*")
    parser.add_argument("--managers", type=int, default=3)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument(
        "--simulated", action="store_true", help="no containerd: containers in name only"
    )
    parser.add_argument("--ms", type=int, default=50, help="of delay")
    return parser


async def start(managers: int, workers: int, *, simulated: bool) -> None:
    """Brings up a cluster, which goes on when this process ends, and says how to use it."""
    if remains.noted(STATE):
        raise RunError(f"{STATE} holds a cluster already; `make cluster-stop` removes it")
    if len(os.fsencode(STATE)) > STATE_BYTES_MAX:
        raise RunError(
            f"{STATE} is too long to hold Unix sockets; name a shorter directory: "
            "WARREN_CLUSTER=/var/tmp/cluster make cluster"
        )
    runtime = "simulated" if simulated else "containerd"
    cluster = Cluster(managers, workers, runtime=runtime, root=STATE)
    try:
        await cluster.form()
    except BaseException:
        cluster.show_logs()
        await cluster.close()
        raise
    await cluster.close_clients()
    show(cluster)


def show(cluster: Cluster) -> None:
    """Addresses, and what to type."""
    print(f"\ncluster: up after {cluster.formed_s:.1f} s; state and logs in {STATE}\n")
    for name, host in cluster.hosts.items():
        role = "manager" if name in cluster.managers else "worker"
        print(f"  {name:<4} {role:<8} {host.api_address:<17} unix://{host.socket}")
    sockets = ",".join(f"unix://{cluster.hosts[name].socket}" for name in cluster.managers)
    python = f"{BIN}/python -m scripts.cluster"
    print(
        f'\n  export PATH="{BIN}:$PATH" WARREN_HOST={sockets}\n'
        "  warrenctl node ls\n"
        "  warrenctl cluster members\n"
        "  warrenctl service create web --image tiny:1 --replicas 6 -- sleep 100000\n"
        f"  {python} kill m1        # and again: run m1; also cut m1 m2, pause w1, heal\n"
        "\nRemove all:  make cluster-stop"
    )


def stop() -> None:
    """Ends and removes everything."""
    tag = remains.noted(STATE).get("tag")
    if tag is None:
        print(f"cluster: nothing to stop: {STATE} holds no cluster")
        return
    remains.remove(STATE)
    left = remains.left(STATE, tag)
    if left:
        raise RunError(f"left behind: {'; '.join(left)}")
    print(f"cluster: stopped; {STATE} is gone")


def sweep() -> None:
    """Removes test clusters whose process is gone."""
    for root in remains.abandoned():
        print(f"cluster: removing {root}")
        remains.remove(root)


def fault(verb: str, hosts: list[str], ms: int) -> None:
    """One thing that happens to a cluster that runs."""
    if not remains.noted(STATE):
        raise RunError("there is no cluster; `make cluster` brings one up")
    cluster = Cluster.attach(STATE)
    count, act = FAULTS[verb]
    unknown = [name for name in hosts if name not in cluster.hosts]
    if unknown or len(hosts) != count:
        raise RunError(f"{verb} takes {count} of these hosts: {', '.join(cluster.hosts)}")
    act(cluster, *hosts, *([ms] if verb == "delay" else []))


def _send(number: signal.Signals) -> Callable[[Cluster, str], None]:
    def send(cluster: Cluster, host: str) -> None:
        for pid in network.pids_in(cluster.hosts[host].place.namespace):
            os.kill(pid, number)

    return send


def _run(cluster: Cluster, host: str) -> None:
    if network.pids_in(cluster.hosts[host].place.namespace):
        raise RunError(f"{host} runs already")
    cluster.hosts[host].spawn()


def _heal(cluster: Cluster) -> None:
    cluster.network.heal()
    for host in cluster.hosts:
        _send(signal.SIGCONT)(cluster, host)


#: Verb → how many hosts it takes, and what it does.
FAULTS: dict[str, tuple[int, Callable[..., None]]] = {
    "kill": (1, _send(signal.SIGKILL)),
    "pause": (1, _send(signal.SIGSTOP)),
    "resume": (1, _send(signal.SIGCONT)),
    "run": (1, _run),
    "cut": (2, Cluster.cut),
    "cut-one-way": (2, Cluster.cut_one_way),
    "isolate": (1, Cluster.isolate),
    "delay": (1, Cluster.delay),
    "heal": (0, _heal),
}


if __name__ == "__main__":
    sys.exit(main())
