"""Writes docs/cli.md from the commands and shapes themselves.

    PYTHONPATH=python python -m tests.unit.cli.reference > docs/cli.md

`test_reference.py` holds that the file is what this would write.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import get_args, get_type_hints

import click
import msgspec

from warren.cli import exits, shapes
from warren.cli.main import cli

_HEAD = """\
# warrenctl

Every command that asks the daemon takes `--host`, `--tls-ca`, `--tls-cert`, `--tls-key` and
`--timeout`, and every one that prints `--format table|json|yaml`, before or after its own name.

## Which manager is asked

`--host` (or `WARREN_HOST`) lists daemons, with commas between: `unix:///path` is the socket of the
host one sits at (default: `unix:///run/warren/warren.sock`), `HOST:PORT` the API of a manager
elsewhere, as in `10.0.0.1:2377,10.0.0.2:2377,10.0.0.3:2377`. For the latter name three files: the
certificates of who signs the managers' (`--tls-ca`, `WARRENCTL_TLS_CA`), a certificate for people
(`spiffe://DOMAIN/client/NAME`) or a node's own (`--tls-cert`, `WARRENCTL_TLS_CERT`) and its key
(`--tls-key`, `WARRENCTL_TLS_KEY`). Who answers must be a manager of the same trust domain.

Any manager answers: one that does not lead forwards what the leader must do. The first host in the
list that can be reached is asked. When it is gone, shuts down or knows no leader, the next one is
asked, and so on in turn until the timeout, under the same request id: no request takes effect
twice. What concerns one host (`cluster init`, `join`, `leave`, images, logs, the daemon's version)
is asked of that host only: at the first socket in the list.

Without a majority of the managers nothing can be decided, and what was decided last is not known:
once each host was asked, the command fails with `no_quorum` and says who is missing. With
`--stale`, commands that read take what one manager has, which may be old; what they print says so:
`"stale": true` in each object, `stale: …` in the last line for people. While managers elect a
leader (`no_leader`; less than a second) it is tried again, for 3 s at most.

Commands that change a service wait until the change has happened (60 s; `--timeout` says otherwise,
`--detach` does not wait). A wait that runs out, or Ctrl-C, leaves the service as asked. A majority
or a manager that is away for a moment does not end a wait; what does says what has been done.
What is in other passing trouble (a daemon that restarts, a full queue, an answer that did not
come) is tried again until the timeout. Where an attempt at a change got no answer, or its
connection broke, and no later one was answered or refused for what the state says, the command
ends with `outcome_unknown`, whatever the later ones met: the change may still take effect.

Results go to standard output, progress and errors to standard error. `NO_COLOR` is honoured; what
goes into a pipe or a file is never cut off.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed; also: a wait ran out, or the reader of the output went away |
| 2 | usage: wrong flags or values, or what the manager found invalid |
| 3 | cannot reach a manager |
| 4 | not found |
| 5 | exists |
| 6 | denied |
| 7 | planned, and something would find no room |
| 8 | looked at, and something needs attention |
| 130 | interrupted by Ctrl-C |

With `--format json` an error is one line of JSON on standard error:
`{"error":{"code":"not_found","message":"…","request_id":"…"}}`. Messages are for people and may
change; codes are stable. `request_id` is there where a daemon was asked: the name of the call, by
which it is found in the daemons' logs ([observability.md](observability.md#logs)). People are shown
it where a command failed or reached no manager. Ctrl-C is how `events --watch` and
`service logs --follow` end: exit code 130, and no error. `answer_too_large` (exit code 1) is for
lists of more than fits into one answer; what is listed can be asked for one by one. `internal` may
also be a fault of `warrenctl` itself: with `WARRENCTL_TRACEBACK=1` in the environment it shows
where. Codes with an exit code other than 1:

"""

_SHAPES_HEAD = """\
## Shapes

What `--format json` and `--format yaml` print. Ids and digests of specs are lowercase hex, times
RFC 3339 in UTC, enumerations lowercase words, units stand last in a name; `null`: does not apply.
Fields may be added; none is renamed or removed within a major release.

| command | prints |
|---|---|
| `cluster init` | `ClusterCreated` |
| `cluster info` | `ClusterView` |
| `cluster status` | `StatusView`, also where something needs attention (exit code 8) |
| `cluster update`, `cluster thaw` | `ClusterChanged` |
| `cluster join` | `ClusterJoined` |
| `cluster leave` | `ClusterLeft` |
| `cluster members` | list of `MemberView` |
| `cluster add-member` | `MemberAdded` |
| `cluster remove-member` | `MemberRemoved` |
| `cluster transfer-leadership` | `Leadership` |
| `cluster backup save`, `cluster backup inspect` | `BackupView` |
| `cluster backup restore` | `ClusterRestored` |
| `cluster recover` | `ClusterRecovered` |
| `node ls` | list of `NodeView` |
| `node inspect` | `NodeDetail` |
| `node promote`, `node demote` | list of `NodeChanged` |
| `node rm` | list of `NodeRemoved` |
| `node update` | list of `NodeUpdated` |
| `service create`, `service update` | `ServiceChanged` |
| `service scale` | list of `ServiceChanged` |
| `service rm` | list of `ServiceRemoved` |
| `service ls` | list of `ServiceView` |
| `service inspect` | `ServiceDetail` |
| `service ps` | list of `SlotView` |
| `service logs` | one `LogLineView` a line (JSON) or document (YAML) |
| `container ls` | list of `ContainerView` |
| `container inspect` | `ContainerDetail` |
| `image load`, `image ls` | list of `ImageView` |
| `image rm` | list of `ImageRemoved` |
| `top` | `TopView` |
| `version` | `VersionView` |
| `doctor` | `DoctorReport`, also where a check failed (exit code 1) |
| `debug bundle` | `BundleView` |
| `dashboard export --output` | list of `DashboardView` |
| `debug log-level` | `LogLevelsView` |
| `debug wal verify` | `WalReport`, also where the log is damaged (exit code 1) |
| `debug wal dump` | one `WalFrame` a line (JSON) or document (YAML) |

What was asked for with `--stale` has `"stale": true` in each object, which is absent otherwise; in
`StatusView` and `TopView` it is always there, and true as well where no majority answered.

In `StatusView`, `findings` has the worst first: `severity` is `critical`, `warning` or `note` (a
cluster with notes only is `healthy`), `kind` a stable word, `subject` the node or service that it
is about. `quorum.answering` and `quorum.spare` (voters that may be lost beside those that do not
answer) are null where the leader was not asked, `quorum.held` where nobody was (`--stale`).
`events` has the oldest first, and is null where there is no leader to ask; in `ServiceDetail`
likewise. In `TopView`, `rates` are of the daemon that was asked, null with the reason in
`rates_why`; `leads` tells whether what only a leader counts (commits, placements) is counted there.
`cpu_used_milli` and `memory_used_bytes` are asked of the first nodes only, as many as the screen
has rows for.

In `ServiceView` and `ServiceDetail`, `crash_looping` is the number of slots that crash again and
again, as the leader counts them; where another manager answers it is 0.

In `MemberView`, `role` is `leader`, `voter` or `learner`, `wanted` what it is to be once it has
caught up (`voter` or `learner`), `lag` the number of entries that it lacks; `lag` and `active` (the
leader has heard from it lately) are null, but for the leader, where it could not be asked itself:
`cluster members` and `cluster status` look for it among the hosts that are named. Ids of members
are decimal numbers in a string, as in `WalReport`. In `ClusterView`, `joint` means that a change of
voters is under way.

In `WalReport`, `end` is `clean` (a clean shutdown), `open` (a whole batch, no end mark: the daemon
runs or was killed), `torn` (an incomplete batch that provably never was durable), `cut` (one that
may have been) or `damaged`; docs/wal-format.md says how they are told apart. The daemon starts on
all but `damaged`, so they exit with 0. `incomplete_batch` and `damage` name file and offset. Of a
damaged log, `frames`, `batches`, `last_index` and `last_term` tell of what is intact before the
damage, and what cannot be known is null. `writer_pid` is the daemon that has the data directory
locked: then the end is in motion, and each look sees a later one. Entries are counted from the
newest snapshot on. A snapshot's own file is not looked at. `member_id` and `voted_for` are decimal
numbers in a string: they have 64 bits, more than some readers of JSON keep.

In `DoctorReport`, `status` is the worst of the checks that were not skipped: `ok`, `warning` or
`failed`; so are those of `checks`, and `skipped` besides, where `found` says why. Names of checks
and of their `readings` are stable; `found` and `advice` are for people. A check that has nothing to
do has `advice` null. `health` stands for all of the daemon's components where it gives no answer,
else there is one `health.COMPONENT` each; likewise `kernel`, `disk` or `ports` alone where the
whole group could not be read. Exit codes of `doctor`: 0 no check failed (there may be warnings), 1
one failed, 2 usage.

`dashboard export NAME` without `--output` prints what Grafana imports, whatever the format.
In `LogLevelsView`, `changed` are the components with a level of their own, `remaining_ms` how long
that lasts; null: until it is changed or the daemon ends. The first row, `all`, is of those without.

In `BundleView`, `errors` are the lines of errors.txt: what could not be had, and why. `redacted` is
always true.

In `WalFrame`, `kind` is `entry`, `hard_state`, `snapshot`, `commit` or `end`; `command` is the name
that commands.proto has for an entry's command, `no_op` for the entry with which a leader begins its
term, and null for one that this release does not know; `request_id` is the name of the request
that asked for it; `payload` is there with `--payload`, in hex.
Memory stays below one segment and 2 MiB, however long the log.

"""

_WORDS = {"str": "string", "int": "integer", "bool": "boolean", "None": "null", "dict": "map"}


def text() -> str:
    """The whole page."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    yield _HEAD
    yield "| error code | exit code |\n|---|---|\n"
    for code, number in sorted(exits.EXIT_OF_CODE.items()):
        yield f"| `{code}` | {number} |\n"
    yield "\n## Commands\n\n"
    yield from _command(click.Context(cli, info_name="warrenctl", terminal_width=96))
    yield _SHAPES_HEAD
    for name in sorted(shapes.__all__):
        yield from _shape(getattr(shapes, name))


def _command(context: click.Context) -> Iterator[str]:
    command = context.command
    if not isinstance(command, click.Group):
        yield f"### {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n\n"
        return
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        # The page must not depend on the width of the terminal that it is written in.
        inner.context_settings["terminal_width"] = 96
        yield from _command(inner.make_context(name, [], parent=context, resilient_parsing=True))


def _shape(shape: type[msgspec.Struct]) -> Iterator[str]:
    yield f"### {shape.__name__}\n\n| field | type |\n|---|---|\n"
    hints = get_type_hints(shape, vars(shapes))
    for field in msgspec.structs.fields(shape):
        # A bar would end the cell.
        words = _type_text(hints[field.name]).replace(" | ", " or ")
        yield f"| `{field.name}` | {words} |\n"
    yield "\n"


def _type_text(hint: object) -> str:
    written = hint.__name__ if inspect.isclass(hint) and not get_args(hint) else str(hint)
    return re.sub(r"[\w.]+", lambda found: _WORDS.get(found[0], found[0].split(".")[-1]), written)


if __name__ == "__main__":
    print(text(), end="")
