"""The numbers of a task's events (ADR 51).

Each save of a task has a revision, and each revision a block of numbers. An event gets its number from the block of
the save that first shows it, and a piece of text from the block of the revision in force. So whatever a save shows has
higher numbers than everything that was shown before it.
"""

from __future__ import annotations

BLOCK = 10_000_000
"""How many numbers a revision has. Numbers stay below 2^53 up to revision 900,000,000."""
ACCEPTED, ROUTED = 0, 1
CALL_ENDS = 100
"""Of the first call that an output holds, in the block of its save; one for each call."""
WORK, WORK_WAITS = 300, 301
"""Of what an output tells: the end of a triage, a plan or a step; and that the plan waits for approval."""
MOVE, MOVE_WAITS = 400, 401
"""Of what a note tells."""
CALL_BEGINS = 501
"""Of the first call that a save announces; two for each call, because the start of a step comes before its call."""
OLD_WORK = 900
"""Of the work in records of versions that stored no revisions, in the order of its time."""
TEXT = 1_000
"""Of the first piece of text. Records of a task never reach it: a save shows few events."""
END, RECEIPT = BLOCK - 2, BLOCK - 1

FIRST_CALL = 2 * BLOCK + CALL_BEGINS
"""Of the first call of a task's first claim. It is not stored, because most tasks make only this call."""


def number(rev: int, place: int) -> int:
    """Return the number at a place in a revision's block."""
    return rev * BLOCK + place


def rev_of(number: int) -> int:
    """Return the revision in whose block a number is."""
    return number // BLOCK
