"""Whom a worker asks next."""

from __future__ import annotations

from warren.agent.route import Route

OWN = "unix:/s"


def test_each_in_turn_until_somebody_leads() -> None:
    route = Route(lambda: ["a:1", "b:1", "c:1"], lambda: "", "", lambda: 0.5)
    asked = [route.next() for _ in range(6)]
    assert asked[:3] == asked[3:]
    assert set(asked) == {"a:1", "b:1", "c:1"}
    route.redirect("d:1")
    assert route.next() == route.next() == "d:1"
    route.failed()
    assert route.next() in {"a:1", "b:1", "c:1"}
    route.welcomed("b:1")
    assert route.next() == "b:1"


def test_the_manager_in_this_process_is_asked_by_its_socket() -> None:
    own = OWN
    route = Route(lambda: ["a:1", "b:1"], lambda: own, "b:1", lambda: 0.0)
    assert route.candidates() == [OWN, "a:1"]
    route.redirect("b:1")
    assert route.next() == OWN
    own = ""
    assert route.candidates() == ["a:1"]


def test_nobody_is_known() -> None:
    assert Route(list, lambda: "", "", lambda: 0.9).next() == ""
