"""Probes: what they say, for which role, and that no component can hold them up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from warren.observe.health import (
    NO_CLUSTER,
    CheckResult,
    Health,
    Role,
    critical_components,
    format_time,
    format_uptime,
)

HYBRID = Role.MANAGER | Role.WORKER
NOON = datetime(2031, 5, 4, 12, 0, 1, 250_999, tzinfo=UTC)


class Switch:
    """A component that can be broken and mended."""

    def __init__(self) -> None:
        self.result: CheckResult = (True, "")
        self.checks = 0

    async def check(self) -> CheckResult:
        return self.read()

    def read(self) -> CheckResult:
        self.checks += 1
        return self.result


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(role: Role = HYBRID, **components: Any) -> tuple[Health, Clock]:
    clock = Clock()
    health = Health("1.2.3", role=role, clock=clock, wall=lambda: NOON)
    for name, switch in components.items():
        health.add(name, switch.check)
    clock.now += 2 * 3600 + 15 * 60 + 30.9
    return health, clock


def all_three() -> dict[str, Any]:
    return {"raft": Switch(), "containerd": Switch(), "api": Switch()}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.99, "59s"), (60, "1m0s"), (3599, "59m59s"), (3600, "1h0m0s"),
     (8130, "2h15m30s"), (360_000, "100h0m0s")],
)  # fmt: skip
def test_uptime(seconds: float, text: str) -> None:
    assert format_uptime(seconds) == text


def test_time_is_rfc_3339_in_utc() -> None:
    assert format_time(NOON) == "2031-05-04T12:00:01.250Z"
    elsewhere = NOON.astimezone(timezone(timedelta(hours=-5)))
    assert format_time(elsewhere) == "2031-05-04T12:00:01.250Z"


def test_critical_components_by_role() -> None:
    assert set(critical_components(HYBRID)) == {"raft", "containerd", "api"}
    assert set(critical_components(Role.MANAGER)) == {"raft", "api"}
    assert set(critical_components(Role.WORKER)) == {"session", "containerd", "api"}
    assert critical_components(Role.NONE) == ()


def test_live() -> None:
    health, _ = made()
    answer = health.live()
    assert answer.ok
    assert answer.body == {"status": "alive", "uptime": "2h15m30s"}


def test_all_is_well(run: Callable[..., Any]) -> None:
    async def main() -> None:
        health, _ = made(**all_three())
        healthy, ready = await health.health(), await health.ready()
        common = {"timestamp": "2031-05-04T12:00:01.250Z", "version": "1.2.3", "uptime": "2h15m30s"}
        assert healthy.ok
        assert healthy.body == {
            "status": "healthy",
            "components": dict.fromkeys(["api", "containerd", "raft"], "healthy"),
            **common,
        }
        assert ready.ok
        assert ready.body == {
            "status": "ready",
            "components": dict.fromkeys(["api", "containerd", "raft"], "ready"),
            **common,
        }

    run(main)


@pytest.mark.parametrize("broken", ["raft", "containerd", "api"])
def test_one_broken_component(broken: str, run: Callable[..., Any]) -> None:
    async def main() -> None:
        switches = all_three()
        switches[broken].result = (False, "gone fishing")
        health, _ = made(**switches)
        healthy, ready = await health.health(), await health.ready()
        assert not healthy.ok
        assert healthy.body["status"] == "unhealthy"
        assert healthy.body["components"][broken] == "unhealthy: gone fishing"  # type: ignore[index]
        assert broken in str(healthy.body["message"])
        assert not ready.ok
        assert ready.body["status"] == "not_ready"
        assert ready.body["components"][broken] == "not ready: gone fishing"  # type: ignore[index]
        assert ready.body["message"] == f"waiting for {broken} (gone fishing)"
        rest = set(switches) - {broken}
        assert all(ready.body["components"][name] == "ready" for name in rest)  # type: ignore[index]

    run(main)


def test_a_component_that_the_role_needs_and_nobody_registered(run: Callable[..., Any]) -> None:
    async def main() -> None:
        health, _ = made(role=Role.WORKER, containerd=Switch(), api=Switch())
        answer = await health.ready()
        assert not answer.ok
        assert answer.body["components"] == {
            "api": "ready",
            "containerd": "ready",
            "session": "not ready: not started yet",
        }
        assert answer.body["message"] == "waiting for session (not started yet)"
        assert (await health.health()).ok

    run(main)


def test_what_the_role_does_not_need_is_not_waited_for(run: Callable[..., Any]) -> None:
    async def main() -> None:
        extra = Switch()
        extra.result = (False, "slow")
        health, _ = made(role=Role.MANAGER, raft=Switch(), api=Switch(), dns=extra)
        answer = await health.ready()
        assert answer.ok
        assert answer.body["components"]["dns"] == "not ready: slow"  # type: ignore[index]
        assert not (await health.health()).ok

    run(main)


def test_no_cluster_is_healthy_but_not_ready_until_there_is_a_role(run: Callable[..., Any]) -> None:
    async def main() -> None:
        health, _ = made(role=Role.NONE, api=Switch())
        assert (await health.health()).ok
        answer = await health.ready()
        assert not answer.ok
        assert answer.body["message"] == NO_CLUSTER
        assert "warrenctl cluster init" in NO_CLUSTER
        health.set_role(Role.MANAGER)
        health.add("raft", Switch().check)
        assert (await health.ready()).ok

    run(main)


def test_states_are_never_older_than_a_second(run: Callable[..., Any]) -> None:
    async def main() -> None:
        switch = Switch()
        health, clock = made(role=Role.NONE, api=switch)
        assert (await health.health()).ok
        switch.result = (False, "died")
        clock.now += 1.0
        assert (await health.health()).ok
        assert switch.checks == 1
        clock.now += 0.01
        assert not (await health.health()).ok
        assert switch.checks == 2

    run(main)


def test_what_is_at_hand_is_never_older_than_the_question(run: Callable[..., Any]) -> None:
    async def main() -> None:
        raft = Switch()
        health, _ = made(role=Role.MANAGER, api=Switch())  # its clock stands still
        health.add_at_hand("raft", raft.read)
        assert (await health.ready()).ok
        raft.result = (False, "no space left")
        answer = await health.ready()
        assert not answer.ok
        assert answer.body["message"] == "waiting for raft (no space left)"
        assert not (await health.health()).ok
        raft.result = (True, "")
        assert (await health.ready()).ok

    run(main)


def test_what_is_at_hand_is_read_after_the_checks(run: Callable[..., Any]) -> None:
    async def main() -> None:
        raft = Switch()

        async def meanwhile_the_disk_fills() -> CheckResult:
            raft.result = (False, "no space left")
            return True, ""

        health, _ = made(role=Role.MANAGER)
        health.add_at_hand("raft", raft.read)
        health.add("api", meanwhile_the_disk_fills)
        answer = await health.ready()
        assert answer.body["message"] == "waiting for raft (no space left)"

    run(main)


def test_a_reading_that_fails(run: Callable[..., Any]) -> None:
    def broken() -> CheckResult:
        raise KeyError

    async def main() -> None:
        health, _ = made(x=Switch())
        health.add_at_hand("y", broken)
        with pytest.raises(ValueError, match="registered already"):
            health.add_at_hand("x", broken)
        answer = await health.health()
        assert answer.body["components"] == {"x": "healthy", "y": "unhealthy: KeyError"}

    run(main)


def test_the_background_task_logs_what_is_at_hand(
    run: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        raft = Switch()
        health = Health("1", refresh_ms=3_600_000)
        health.add_at_hand("raft", raft.read)
        running = asyncio.create_task(health.run())
        for turns, result in enumerate([(True, ""), (False, "no space left"), (True, "")], 1):
            raft.result = result
            health.changed()
            async with asyncio.timeout(10):
                while raft.checks < turns:  # noqa: ASYNC110 - waits on what it counts
                    await asyncio.sleep(0)
        running.cancel()

    with caplog.at_level(logging.INFO, "warren.health"):
        run(main)
    assert [r.message for r in caplog.records] == ["raft works", "raft does not work", "raft works"]


def test_the_background_task_notices_death_and_return(run: Callable[..., Any]) -> None:
    async def main() -> None:
        switch = Switch()
        health = Health("1", role=Role.NONE, refresh_ms=1)
        health.add("containerd", switch.check)
        running = asyncio.create_task(health.run())

        async def until(ok: bool) -> None:
            while (await health.health()).ok is not ok:  # noqa: ASYNC110 - waits on what it asks
                await asyncio.sleep(0.001)

        for ok in (True, False, True):
            switch.result = (ok, "dead")
            await until(ok)
        running.cancel()

    run(main)


def test_while_nobody_asks_it_is_measured_seldom(run: Callable[..., Any]) -> None:
    async def main() -> None:
        switch = Switch()
        clock = Clock()
        health = Health("1", role=Role.NONE, clock=clock, refresh_ms=1)
        health.add("api", switch.check)
        running = asyncio.create_task(health.run())
        await asyncio.sleep(0.1)  # a hundred quick turns, if it took them
        assert switch.checks == 1

        clock.now += 60
        switch.result = (False, "died meanwhile")
        assert not (await health.health()).ok
        async with asyncio.timeout(10):
            while switch.checks < 5:  # noqa: ASYNC110 - waits on what it counts
                await asyncio.sleep(0.001)
        running.cancel()

    run(main)


def test_a_look_is_fresh_and_no_question(run: Callable[..., Any]) -> None:
    switch = Switch()
    health, clock = made(raft=switch)

    async def main() -> None:
        await health.look()
        assert health.works() == {"raft": True}
        switch.result = (False, "dead")
        clock.now += 2
        assert health.works() == {"raft": False}, "nobody knows that it works"
        await health.look()
        assert health.works() == {"raft": False}
        assert switch.checks == 2
        await health.look()
        assert switch.checks == 2, "it is fresh enough"
        assert not health._is_asked(), "a scrape begins no time of questions"

    run(main)


def test_a_change_is_measured_at_once(run: Callable[..., Any]) -> None:
    async def main() -> None:
        switch = Switch()
        health = Health("1", role=Role.NONE, refresh_ms=3_600_000)
        health.add("containerd", switch.check)
        running = asyncio.create_task(health.run())
        async with asyncio.timeout(10):
            for checks in (1, 2, 3):
                while switch.checks < checks:  # noqa: ASYNC110 - waits on what it counts
                    await asyncio.sleep(0)
                health.changed()
        running.cancel()

    run(main)


async def hang() -> CheckResult:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def fail() -> CheckResult:
    raise ConnectionError("connection refused")


async def fail_silently() -> CheckResult:
    raise KeyError


async def fail_without_reason() -> CheckResult:
    return False, ""


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (hang, "no answer within 20 ms"),
        (fail, "connection refused"),
        (fail_silently, "KeyError"),
        (fail_without_reason, "no reason given"),
    ],
)
def test_checks_that_fail(
    check: Callable[[], Awaitable[CheckResult]], why: str, run: Callable[..., Any]
) -> None:
    async def main() -> None:
        health = Health("1", check_timeout_ms=20)
        health.add("x", check)
        health.add("y", Switch().check)
        answer = await health.health()
        assert answer.body["components"] == {"x": f"unhealthy: {why}", "y": "healthy"}

    run(main)


def test_a_check_that_ignores_its_cancellation_holds_nobody_up(run: Callable[..., Any]) -> None:
    async def main() -> None:
        released = asyncio.Event()

        async def stubborn() -> CheckResult:
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    continue
            return True, ""

        health = Health("1", check_timeout_ms=10)
        health.add("x", stubborn)
        health.add("y", Switch().check)
        answer = await health.health()
        assert answer.body["components"] == {"x": "unhealthy: its check hangs", "y": "healthy"}
        released.set()

    run(main)


def test_asking_at_once_measures_once(run: Callable[..., Any]) -> None:
    async def main() -> None:
        switch = Switch()
        health, _ = made(role=Role.NONE, api=switch)
        await asyncio.gather(*(health.health() for _ in range(20)))
        assert switch.checks == 1

    run(main)


def test_components_come_and_go(run: Callable[..., Any]) -> None:
    async def main() -> None:
        health, _ = made(api=Switch())
        with pytest.raises(ValueError, match="registered already"):
            health.add("api", Switch().check)
        health.remove("api")
        health.remove("api")
        assert (await health.health()).body["components"] == {}
        health.add("api", Switch().check)
        assert (await health.health()).ok

    run(main)


def test_only_changes_are_logged(run: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        switch = Switch()
        health, clock = made(role=Role.NONE, containerd=switch)
        for ok in (True, True, False, False, True):
            switch.result = (ok, "" if ok else "refused")
            clock.now += 2
            await health.health()

    with caplog.at_level(logging.INFO, "warren.health"):
        run(main)
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("INFO", "containerd works"),
        ("WARNING", "containerd does not work"),
        ("INFO", "containerd works"),
    ]


def test_a_component_has_a_page_of_its_own(run: Callable[..., Any]) -> None:
    async def main() -> None:
        raft = Switch()
        health, clock = made()
        health.add("raft", raft.check, lambda: {"term": 7})
        assert await health.component("session") is None
        answer = await health.component("raft")
        assert answer is not None
        assert answer.ok
        assert answer.body == {
            "status": "healthy",
            "timestamp": format_time(NOON),
            "component": "raft",
            "critical": True,
            "since": format_time(NOON),
            "measured_ms_ago": 0,
            "details": {"term": 7},
        }
        raft.result = (False, "no leader")
        clock.now += 0.5
        answer = await health.component("raft")
        assert answer is not None
        assert (answer.ok, answer.body["measured_ms_ago"]) == (True, 500)
        clock.now += 1
        answer = await health.component("raft")
        assert answer is not None
        assert not answer.ok
        assert (answer.body["status"], answer.body["message"]) == ("unhealthy", "no leader")

    run(main)


def test_what_is_broken_from_the_start_is_told_once_and_has_a_beginning(
    run: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        switch, session = Switch(), Switch()
        switch.result, session.result = (False, "never started"), (False, "not connected yet")
        health, clock = made(role=Role.NONE, containerd=switch)
        health.add_at_hand("session", session.read)
        for _ in range(3):
            clock.now += 2
            await health.health()
        answer = await health.component("containerd")
        assert answer is not None
        assert answer.body["since"] == format_time(NOON)
        assert answer.body["measured_ms_ago"] == 0

    with caplog.at_level(logging.INFO, "warren.health"):
        run(main)
    assert [(r.levelname, r.message, vars(r)["why"]) for r in caplog.records] == [
        ("WARNING", "containerd does not work", "never started"),
        ("WARNING", "session does not work", "not connected yet"),
    ]
