"""What this worker is assigned, and what it remembers: the tables behind `converge`.

Every change goes to the journal, and marks the containers that it touches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from warren import rpc
from warren.agent import status
from warren.agent.contact import Contact
from warren.agent.converge import Assigned, Memory, backoff_ms
from warren.agent.runtime.base import Observed, Phase
from warren.agent.store import Fence, Journal, Meta, Stored
from warren.pb.v1 import objects_pb2, session_pb2

__all__ = ["Board"]

_MODULUS: Final = 1 << 64
_TOLD_AT_INFO: Final = frozenset(
    {
        objects_pb2.CONTAINER_STATE_PENDING,
        objects_pb2.CONTAINER_STATE_RUNNING,
        objects_pb2.CONTAINER_STATE_COMPLETE,
        objects_pb2.CONTAINER_STATE_FAILED,
        objects_pb2.CONTAINER_STATE_SHUTDOWN,
        objects_pb2.CONTAINER_STATE_REJECTED,
    }
)
_log = logging.getLogger("warren.worker")


class Board:
    """Invariant: `set_hash` is that of `assignments`; `assigned` holds those whose spec is known
    or not needed, `without_spec` the others.
    """

    def __init__(self, stored: Stored, journal: Journal) -> None:
        self.assignments = stored.assignments
        self.specs = stored.specs
        self.memory = stored.memory
        self.assigned: dict[str, Assigned] = {}
        self.without_spec: set[str] = set()
        self.on_change: Callable[[], None] = lambda: None
        self.on_hello: Callable[[], None] = lambda: None
        self.on_agreed: Callable[[], None] = lambda: None
        self.set_hash = 0
        # The store may lack what was assigned last. Only a manager's word of this process' time
        # makes the rest strays.
        self.set_known = False
        self._meta = stored.meta
        self._journal = journal
        self._marked: dict[str, None] = {}
        self._all_marked = True
        for container_id in self.assignments:
            self.set_hash += status.set_hash_term(self.assignments[container_id])
            self._derive(container_id)
        self.set_hash %= _MODULUS

    def mark(self, *ids: str, wake: bool = True) -> None:
        """Something about these changed; `wake`: look at once."""
        self._marked.update(dict.fromkeys(ids))
        if wake:
            self.on_change()

    def mark_all(self) -> None:
        """Something changed that may concern any container."""
        self._all_marked = True
        self.on_change()

    def take_marked(self, observed: Iterable[str]) -> Iterable[str]:
        """What was marked, which it then no longer is; `observed`: others that there are."""
        marked, self._marked = self._marked, {}
        if self._all_marked:
            self._all_marked = False
            marked = dict.fromkeys((*self.assignments, *self.memory, *observed))
        return marked

    def image_digests(self) -> set[str]:
        """Of all that is assigned, as far as its specs are known."""
        wanted = {assignment.spec_digest for assignment in self.assignments.values()}
        return {self.specs[digest].image_digest for digest in wanted & self.specs.keys()}

    def remember(self, container_id: str, memory: Memory | None) -> None:
        """Set or drop what is remembered of a container."""
        if memory is None:
            self.memory.pop(container_id, None)
        else:
            self.memory[container_id] = memory
        self._journal.put_container(container_id, self.assignments.get(container_id), memory)

    # The manager's word

    @property
    def epoch(self) -> int:
        """The highest epoch obeyed; 0 before the first."""
        return self._meta.fence.epoch

    def obey(self, fence: Fence) -> bool:
        """A leader of (epoch, term) speaks: raises the fence, or False where it is of the past."""
        if fence < self._meta.fence:
            return False
        if fence > self._meta.fence:
            self._put_meta(msgspec.structs.replace(self._meta, fence=fence))
        return True

    def apply(self, message: session_pb2.Assignments) -> bool:
        """Take a delta or the whole set; False: what is held now is not what the manager means
        (another hash, or a spec is missing), so that it has to send the whole set.
        """
        for blob in message.specs:
            self.specs[blob.digest] = blob.spec
        self._journal.put_specs({blob.digest: blob.spec for blob in message.specs})
        given = {assignment.container_id.hex(): assignment for assignment in message.upsert}
        removed = [container_id.hex() for container_id in message.remove]
        if message.complete:
            removed = list(self.assignments.keys() - given.keys())
        for container_id in removed:
            self._assign(container_id, None)
        for container_id, assignment in given.items():
            self._assign(container_id, assignment)
        agreed = self.set_hash == message.set_hash and not self.without_spec
        if agreed:
            revision = message.revision.SerializeToString()
            self._put_meta(msgspec.structs.replace(self._meta, revision=revision, complete=True))
            if not self.set_known:
                self.set_known = True
                self.mark_all()
            self.on_agreed()
        self.mark(*removed, *given)
        return agreed

    def hello(
        self, node_id: bytes, description: objects_pb2.NodeDescription, observed: Iterable[Observed]
    ) -> session_pb2.Hello:
        """The first word of a session. A session begins with no spec known, so that those that
        nothing uses any more can be dropped now.
        """
        self._drop_unused_specs()
        self.on_hello()
        items = [
            status.status_item(container_id, memory) for container_id, memory in self.memory.items()
        ]
        items += [
            status.observed_item(seen)
            for seen in observed
            if seen.id not in self.memory and seen.phase is Phase.RUNNING
        ]
        hello = session_pb2.Hello(
            node_id=node_id,
            description=description,
            observed=items,
            fence_epoch=self._meta.fence.epoch,
            fence_term=self._meta.fence.term,
        )
        if self._meta.complete and not self.without_spec:
            hello.last_revision.ParseFromString(self._meta.revision)
            hello.set_hash = self.set_hash
        return hello

    def about(self, container_id: str) -> dict[str, object]:
        """What a line about a container is found by: it, its service, and who asked for it.

        The request is the last that changed the service when the container was told of.
        """
        fields: dict[str, object] = {"container_id": container_id}
        if (assignment := self.assignments.get(container_id)) is not None:
            fields |= {
                "service_name": assignment.service_name,
                "service_id": assignment.service_id.hex(),
            }
            if assignment.HasField("request"):
                fields["request_id"] = rpc.request_id_text(assignment.request)
        return fields

    def log_transition(self, container_id: str, memory: Memory) -> None:
        """One line for people about what became of a container."""
        assignment = self.assignments.get(container_id)
        name = f"{assignment.service_name}.{assignment.slot}" if assignment else container_id[:12]
        state = objects_pb2.ContainerState.Name(objects_pb2.ContainerState.ValueType(memory.state))
        word = state.removeprefix("CONTAINER_STATE_").lower()
        level = logging.INFO if memory.state in _TOLD_AT_INFO else logging.DEBUG
        fields = self.about(container_id) | {"attempt": memory.attempt}
        if memory.state == objects_pb2.CONTAINER_STATE_PENDING and memory.retry_at_ms:
            fields["backoff_ms"] = backoff_ms(memory.failures)
        why = f": {memory.message}" if memory.message else ""
        _log.log(level, "container %s is %s%s", name, word, why, extra=fields)

    def _assign(self, container_id: str, assignment: session_pb2.Assignment | None) -> None:
        before = self.assignments.pop(container_id, None)
        if before is not None:
            self.set_hash -= status.set_hash_term(before)
        if assignment is not None:
            self.assignments[container_id] = assignment
            self.set_hash += status.set_hash_term(assignment)
        self.set_hash %= _MODULUS
        self._derive(container_id)
        self._journal.put_container(container_id, assignment, self.memory.get(container_id))

    def _derive(self, container_id: str) -> None:
        self.assigned.pop(container_id, None)
        self.without_spec.discard(container_id)
        assignment = self.assignments.get(container_id)
        if assignment is None:
            return
        derived = status.assigned(assignment, self.specs.get(assignment.spec_digest))
        if derived is None:
            self.without_spec.add(container_id)
        else:
            self.assigned[container_id] = derived

    def _drop_unused_specs(self) -> None:
        used = {assignment.spec_digest for assignment in self.assignments.values()}
        unused = self.specs.keys() - used
        for digest in unused:
            del self.specs[digest]
        if unused:
            self._journal.put_specs(dict.fromkeys(unused))

    @property
    def contact(self) -> Contact:
        """With the managers, as it was saved last."""
        return self._meta.contact

    def save_contact(self, contact: Contact) -> None:
        """Write it down, so that a restarted daemon goes on from there."""
        self._put_meta(msgspec.structs.replace(self._meta, contact=contact))

    def _put_meta(self, meta: Meta) -> None:
        self._meta = meta
        self._journal.put_meta(meta)
