"""What waits is taken by turns between tenants; of one tenant, interactive items come before batch ones."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.domain.turns import MAX_IN_A_ROW, Line, Turns

A, B, C = Line("a"), Line("b"), Line("c")
A_BATCH, B_BATCH = Line("a", Priority.BATCH), Line("b", Priority.BATCH)


def waiting(**numbers: int) -> Turns[str]:
    """Return turns with interactive items of some tenants: `a=2` makes the items a0 and a1."""
    turns = Turns[str]()
    for name, number in numbers.items():
        for n in range(number):
            turns.put(Line(name), f"{name}{n}")
    return turns


def taken(turns: Turns[str], number: int | None = None, *, back: bool = True) -> list[str]:
    """Take some items, or all; give each one back before the next one is taken, unless `back` is False."""
    items = list[str]()
    while turns and len(items) != number:
        line, item = turns.take()
        items.append(item)
        if back:
            turns.give_back(line)
    return items


def test_a_tenant_that_had_the_only_item_in_use_comes_after_the_others() -> None:
    """It did not wait for it, and another one waits for it since then; the other tenant began to wait later."""
    turns = Turns[str]()
    turns.use(A)
    turns.put(A, "a0")
    turns.put(B, "b0")
    turns.give_back(A)

    assert taken(turns) == ["b0", "a0"]


def test_items_of_one_line_are_taken_in_their_order() -> None:
    assert taken(waiting(a=4)) == ["a0", "a1", "a2", "a3"]


def test_a_backlog_of_one_tenant_holds_up_no_other_tenant() -> None:
    """The tenant that comes later is next, although a thousand items came before."""
    turns = waiting(a=1_000)
    in_use = taken(turns, 8, back=False)
    turns.put(B, "b0")

    assert in_use == [f"a{n}" for n in range(8)]
    assert taken(turns, 2) == ["b0", "a8"]


@pytest.mark.parametrize("back", [True, False], ids=["one at a time", "all at a time"])
def test_tenants_take_turns(back: bool) -> None:
    assert taken(waiting(a=3, b=2, c=3), back=back) == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "c2"]


def test_the_tenant_with_the_fewest_items_in_use_comes_next_until_all_have_as_many() -> None:
    turns = waiting(a=20)
    taken(turns, 4, back=False)
    for n in range(20):
        turns.put(B, f"b{n}")

    assert taken(turns, 6, back=False) == ["b0", "b1", "b2", "b3", "a4", "b4"]
    turns.give_back(A)
    turns.give_back(A)
    assert taken(turns, 3, back=False) == ["a5", "a6", "b5"]


def test_a_tenant_that_sends_one_item_at_a_time_takes_no_turns_of_another_one() -> None:
    """It comes back at once, and waits behind the tenant that it was served before."""
    turns, items = waiting(a=4), list[str]()
    for n in range(4):
        turns.put(B, f"b{n}")
        items += taken(turns, 2)

    assert items == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]


def test_interactive_items_come_before_batch_items_of_their_tenant() -> None:
    turns = Turns[str]()
    for n in range(3):
        turns.put(A_BATCH, f"batch{n}")
    turns.put(A, "now")

    assert taken(turns) == ["now", "batch0", "batch1", "batch2"]


@pytest.mark.parametrize("back", [True, False], ids=["one at a time", "all at a time"])
def test_batch_items_are_not_starved(back: bool) -> None:
    """They have every fifth turn, however many interactive items come."""
    turns = waiting(a=100)
    for n in range(3):
        turns.put(A_BATCH, f"batch{n}")

    items = taken(turns, 15, back=back)
    assert MAX_IN_A_ROW == 4
    assert [items.index(f"batch{n}") for n in range(3)] == [4, 9, 14]


def test_interactive_items_before_the_first_batch_item_do_not_count() -> None:
    turns = waiting(a=20)
    taken(turns, 10)
    turns.put(A_BATCH, "batch")

    assert taken(turns, 5) == ["a10", "a11", "a12", "a13", "batch"]


def test_a_priority_takes_no_turns_of_another_tenant() -> None:
    """Interactive items of one tenant do not come before the batch items of another one, or all would use them."""
    turns = waiting(a=4)
    for n in range(3):
        turns.put(B_BATCH, f"b{n}")

    assert taken(turns) == ["a0", "b0", "a1", "b1", "a2", "b2", "a3"]


def test_batch_items_in_use_do_not_count_against_interactive_items() -> None:
    """A tenant with much batch work keeps its turns for what its users wait for."""
    turns = Turns[str]()
    for n in range(8):
        turns.put(A_BATCH, f"batch{n}")
    taken(turns, 4, back=False)
    turns.put(B, "b0")
    taken(turns, 1, back=False)
    turns.put(B, "b1")
    assert turns.fewest == 1
    turns.put(A, "now")

    assert turns.fewest == 0
    assert taken(turns, 3, back=False) == ["now", "b1", "batch4"]


def test_a_removed_item_is_not_taken() -> None:
    turns = waiting(a=3, b=1)

    assert turns.remove(A, "a1")
    assert turns.remove(B, "b0")
    assert not turns.remove(B, "b0")
    assert not turns.remove(C, "c0")
    assert len(turns) == 2
    assert taken(turns) == ["a0", "a2"]


def test_an_item_that_was_taken_cannot_be_removed() -> None:
    turns = waiting(a=1)
    taken(turns, back=False)

    assert not turns.remove(A, "a0")


def test_what_is_in_use_and_of_whom_is_counted() -> None:
    turns = waiting(a=2, b=1)
    lines = [turns.take()[0] for _ in range(2)]
    assert (turns.in_use, turns.tenants, len(turns)) == (2, 2, 1)

    for line in lines:
        turns.give_back(line)
    assert (turns.in_use, turns.tenants, turns.fewest) == (0, 1, 0)
    taken(turns)
    assert (turns.in_use, turns.tenants) == (0, 0)


def test_nothing_is_kept_of_tenants_that_have_nothing() -> None:
    """There may be thousands of them over time."""
    turns = Turns[str]()
    for n in range(1_000):
        turns.put(Line(f"tenant-{n}"), "x")
        taken(turns)
        turns.put(Line(f"tenant-{n}", Priority.BATCH), "x")
        turns.remove(Line(f"tenant-{n}", Priority.BATCH), "x")

    assert (turns._tenants, turns._waiting) == ({}, {})
