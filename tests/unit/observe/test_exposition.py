"""Joining metrics texts: every name once, nothing lost without being counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from warren.observe.exposition import Page, families

A = b"# HELP a First.\n# TYPE a gauge\na 1\n"
B = b'# HELP b Second.\n# TYPE b histogram\nb_bucket{le="+Inf"} 2\nb_sum 1\nb_count 2\n'


def join(texts: Iterable[tuple[str, bytes]]) -> tuple[bytes, Counter[tuple[str, str]]]:
    page = Page()
    for source, text in texts:
        page.add_text(source, text)
    return page.text(), page.left_out


def test_families_are_split_at_names() -> None:
    assert families(A + B) == [(b"a", A), (b"b", B)]
    assert families(b"") == []
    assert families(b"x 1\n" + A) == [(b"", b"x 1\n"), (b"a", A)]
    assert families(b"# TYPE c counter") == [(b"c", b"# TYPE c counter\n")]


def test_a_comment_is_no_header() -> None:
    text = b"# TYPE a gauge\n# a comment\na 1\n"
    assert families(text) == [(b"a", text)]


def test_sources_are_joined_in_order() -> None:
    assert join([("one", A), ("two", B)]) == (A + B, {})


def test_the_first_source_of_a_name_wins() -> None:
    other = b"# TYPE a counter\na 5\n"
    text, left_out = join([("one", A), ("two", other + B), ("three", B)])
    assert text == A + B
    assert left_out == {("two", "duplicate"): 1, ("three", "duplicate"): 1}


def test_a_source_that_repeats_itself() -> None:
    text, left_out = join([("one", A + B + A)])
    assert text == A + B
    assert left_out == {("one", "duplicate"): 1}


def test_samples_without_headers_are_left_out() -> None:
    text, left_out = join([("one", b"x 1\n" + A), ("two", b"\n\n" + B)])
    assert text == A + B
    assert left_out == {("one", "headerless"): 1}


def test_a_missing_last_newline_is_mended() -> None:
    assert join([("one", A.rstrip()), ("two", B)])[0] == A + B


names = st.sampled_from([b"a", b"b", b"c"])
lines = st.one_of(
    names.map(lambda n: b"# TYPE " + n + b" gauge"),
    names.map(lambda n: b"# HELP " + n + b" x"),
    names.map(lambda n: n + b" 1"),
)


@given(st.lists(st.lists(lines, max_size=12).map(b"\n".join), max_size=4))
def test_no_type_is_ever_repeated_across_blocks(texts: list[bytes]) -> None:
    joined, _ = join((str(i), text) for i, text in enumerate(texts))
    kept = [name for name, _ in families(joined)]
    assert len(kept) == len(set(kept))
    assert b"" not in kept
