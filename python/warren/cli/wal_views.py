"""A log on disk, as `warrenctl debug wal` shows it: where it is, what it holds, how it ends."""

from __future__ import annotations

import os
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from warren import rpc
from warren.cli.shapes import WalDamage, WalFrame, WalHardState, WalPlace, WalReport
from warren.errors import WarrenError
from warren.pb.v1 import commands_pb2

if TYPE_CHECKING:
    from warren.core import LogFrame, RaftHardState

__all__ = [
    "FRAME_HEADER",
    "Place",
    "complain_of_damage",
    "end_text",
    "frame",
    "frame_text",
    "locate",
    "report",
    "report_text",
]

NO_OP: Final = "no_op"
"""Stands for the command in the entry with which a leader begins its term: it has none."""

_SEGMENT: Final = re.compile(r"[0-9a-f]{16}\.wal")
_WIDTH: Final = 96
_COLUMNS: Final = "{:<20}  {:>10}  {:<10}  {:>10}  {:>6}  {:>8}  {}"

FRAME_HEADER: Final = _COLUMNS.format(
    "FILE", "OFFSET", "KIND", "INDEX", "TERM", "BYTES", "WHAT"
).rstrip()

_ENDS: Final = {
    "clean": "with the mark of a clean shutdown: nothing is missing.",
    "open": (
        "with a whole batch and no end mark, as it does while the daemon runs or after it was "
        "killed: nothing is missing."
    ),
    "torn": (
        "with a torn batch ({place}): a crash came while it was written. Part of it never reached "
        "the disk, so nobody was promised anything in it. The next start leaves it out; there is "
        "nothing to do."
    ),
    "cut": (
        "with an incomplete batch that may have been durable before ({place}): something that was "
        "acknowledged may be missing. Start the daemon: among several managers it neither votes "
        "nor acknowledges until it has caught up with the others. A single manager has nobody to "
        "catch up from: look whether the last changes are there, and check the disk."
    ),
    "damaged": "nobody knows where: it is damaged.",
}


@dataclass(frozen=True)
class Place:
    """A log, and who is writing to it."""

    wal_dir: Path
    writer_pid: int | None


def locate(directory: str) -> Place:
    """The log in a data directory, a raft directory or a log's own. WarrenError without one."""
    given = Path(directory)
    candidates = (given, given / "wal", given / "raft" / "wal")
    for wal_dir in candidates:
        try:
            names = os.listdir(wal_dir)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            raise WarrenError(
                "denied", f"may not look into {wal_dir}; run it as root, or as the daemon's user"
            ) from None
        if any(_SEGMENT.fullmatch(name) for name in names):
            return Place(wal_dir, _writer_pid(wal_dir.absolute().parents[1] / "lock"))
    if not given.exists():
        raise WarrenError("not_found", f"there is no directory {given}; is the path right?")
    looked = ", ".join(str(path) for path in candidates)
    raise WarrenError(
        "not_found",
        f"there is no log in {given}: looked for files named like 0000000000000001.wal in "
        f"{looked}. Name the data directory of a manager (data_dir in its configuration); a host "
        "that belongs to no cluster has no log",
    )


def _writer_pid(lock: Path) -> int | None:
    """Who holds the data directory's lock, by the kernel: trying the lock could stop a start."""
    try:
        inode, holder = lock.stat().st_ino, lock.read_text(encoding="ascii").strip()
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    # 1: FLOCK  ADVISORY  WRITE 4711 fd:00:1234 0 EOF; the device differs from stat's on btrfs.
    held = re.search(rf"FLOCK\s+\S+\s+WRITE\s+{re.escape(holder)}\s+\S+:{inode}\s", locks)
    return int(holder) if held and holder.isdigit() else None


def report(place: Place, found: dict[str, Any]) -> WalReport:
    """What was found in a log, as `--format json` has it."""
    bad = WalPlace(*found["place"]) if found["place"] else None
    damage = WalDamage(bad.file, bad.offset, found["why"]) if bad and "why" in found else None
    snapshot_index, snapshot_term = found.get("snapshot") or (None, None)
    first, last = found.get("first_index"), found["last_index"]
    entries = None if damage else (last - first + 1 if first is not None else 0)
    cluster_id, data_dir_id = found.get("cluster_id"), found.get("data_dir_id")
    return WalReport(
        directory=str(place.wal_dir),
        end=found["end"],
        writer_pid=place.writer_pid,
        cluster_id=cluster_id.hex() if cluster_id else None,
        epoch=found.get("epoch"),
        member_id=str(found["member_id"]) if "member_id" in found else None,
        data_dir_id=data_dir_id.hex() if data_dir_id else None,
        segments=found.get("segments"),
        frames=found["frames"],
        batches=found["batches"],
        entries=entries,
        first_index=first,
        last_index=last,
        last_term=found["last_term"],
        snapshot_index=snapshot_index,
        snapshot_term=snapshot_term,
        hard_state=_hard_state(found["hard_state"]),
        incomplete_batch=None if damage else bad,
        damage=damage,
    )


def _hard_state(state: RaftHardState | None) -> WalHardState | None:
    if state is None:
        return None
    return WalHardState(
        term=state.term,
        voted_for=str(state.voted_for) if state.voted_for else None,
        commit_index=state.commit_index,
        generation=state.generation,
        cut=state.is_cut,
    )


def report_text(report: WalReport) -> str:
    """The report for people."""
    rows = [("log", report.directory)]
    if report.damage is None:
        rows += _whole_rows(report)
    else:
        intact = f"{_count(report.batches, 'batch', 'batches')}, up to index {report.last_index}"
        rows += [("intact", f"{intact} (term {report.last_term}), before the damage")]
        place = f"{report.damage.file} at offset {report.damage.offset}"
        rows += [("damage", f"{place}: {report.damage.why}")]
    rows.append(("it ends", end_text(report)))
    if report.writer_pid is not None:
        rows.append(("daemon", _writer_text(report)))
    return "\n".join(_row(name, text) for name, text in rows)


def _whole_rows(report: WalReport) -> list[tuple[str, str]]:
    entries = f"{report.entries}"
    if report.first_index is not None:
        entries += f", index {report.first_index} to {report.last_index}"
    if report.snapshot_index is None:
        snapshot = "none"
    else:
        snapshot = f"covers the entries up to index {report.snapshot_index}"
        snapshot += f" (term {report.snapshot_term}); its file is not checked here"
    held = f"{_count(report.segments, 'segment')}, {_count(report.batches, 'batch', 'batches')}"
    held += f", {_count(report.frames, 'frame')}"
    return [
        ("cluster", f"{report.cluster_id}, epoch {report.epoch}"),
        ("member", f"{report.member_id}, bound to data directory {report.data_dir_id}"),
        ("holds", held),
        ("entries", entries),
        ("last", f"index {report.last_index}, term {report.last_term}"),
        ("snapshot", snapshot),
        ("hard state", _hard_state_text(report.hard_state)),
    ]


def _count(number: int | None, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _hard_state_text(state: WalHardState | None) -> str:
    if state is None:
        return "none that this release knows"
    voted = "nobody" if state.voted_for is None else f"member {state.voted_for}"
    text = f"term {state.term}, voted for {voted}, commit index {state.commit_index}"
    if state.generation:
        text += f", cut {_count(state.generation, 'time')}"
        text += ", not caught up since" if state.cut else ""
    return text


def _writer_text(report: WalReport) -> str:
    pid = report.writer_pid
    if report.damage is not None:
        return (
            f"warrend (pid {pid}) still runs on what it has in memory; once stopped, it will not "
            "start again on this log."
        )
    return f"warrend (pid {pid}) is writing to this log: its end moves, look again for a newer one."


def _row(name: str, text: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f"{name:<12}",
        subsequent_indent=" " * 12,
        break_long_words=False,
        break_on_hyphens=False,
    )


def end_text(report: WalReport) -> str:
    """How the log ends, what that means, and what to do."""
    bad = report.incomplete_batch
    return _ENDS[report.end].format(place=f"{bad.file} at offset {bad.offset}" if bad else "")


def complain_of_damage(report: WalReport) -> None:
    """Raise WarrenError where the log is damaged."""
    if report.damage is None:
        return
    file = Path(report.directory) / report.damage.file
    raise WarrenError(
        "log_damaged",
        f"the log is damaged: {file} at offset {report.damage.offset}: {report.damage.why}. "
        "Nothing was changed, and the daemon refuses to start on it. With several managers: remove "
        "this member, move its data directory away and let the host join anew. With a single one: "
        "keep a copy, and restore the data directory from a backup",
    )


def frame(frame: LogFrame) -> WalFrame:
    """A frame, as `--format json` has it."""
    is_placed = frame.kind != "hard_state"
    command = _decoded(frame.command)
    return WalFrame(
        file=frame.file,
        offset=frame.offset,
        kind=frame.kind,
        index=frame.index if is_placed else None,
        term=frame.term if is_placed else None,
        payload_bytes=frame.payload_bytes,
        command=_command_name(frame.command, command),
        request_id=_request_name(command),
        hard_state=_hard_state(frame.hard_state),
        payload=None if frame.payload is None else frame.payload.hex(),
    )


def _command_name(encoded: bytes | None, command: commands_pb2.Command | None) -> str | None:
    """As in proto/warren/v1/commands.proto."""
    if command is None:
        return NO_OP if encoded == b"" else None
    name: str | None = command.WhichOneof("body")
    return name


def _request_name(command: commands_pb2.Command | None) -> str | None:
    """Of the request that asked for it; None for the cluster's own commands."""
    if command is None or not command.HasField("request"):
        return None
    return rpc.request_id_text(command.request)


def _decoded(command: bytes | None) -> commands_pb2.Command | None:
    """None where there is none that this release knows."""
    if not command:
        return None
    try:
        return commands_pb2.Command.FromString(command)
    except DecodeError:
        return None


def frame_text(frame: WalFrame) -> str:
    """A frame as one line under FRAME_HEADER."""
    line = _COLUMNS.format(
        frame.file,
        frame.offset,
        frame.kind,
        "-" if frame.index is None else frame.index,
        "-" if frame.term is None else frame.term,
        frame.payload_bytes,
        _what(frame),
    )
    return f"{line}  {frame.payload}" if frame.payload else line.rstrip()


def _what(frame: WalFrame) -> str:
    if frame.kind == "entry":
        what = frame.command or "unknown to this release"
        return f"{what}, request {frame.request_id}" if frame.request_id else what
    if frame.kind == "hard_state":
        return _hard_state_text(frame.hard_state)
    return {
        "commit": "the batch counts",
        "end": "clean shutdown",
        "snapshot": "a snapshot covers it all so far",
    }[frame.kind]
