"""What every store promises about texts: each comes back as it went in, however long and in whatever script."""

from __future__ import annotations

from random import Random

import pytest

from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.snapshot import Snapshot
from support.builders import NOW_MS, a_request, a_task, an_output, by_key, claimed, noise

CLEF = "\N{MUSICAL SYMBOL G CLEF}"
MB = 1_000_000


@pytest.mark.parametrize(
    "prompt",
    [
        CLEF * 200_000,
        noise(800_000),
        "\0 \x01 \x1f \x7f \x85 \u2028 \ufeff \ufffe \uffff",
        "e\u0301 \u00e9 \u202eabc\u202c \N{FAMILY} \N{ZERO WIDTH JOINER}",
        "\\u0041 \\ \" ' ' \" \r\n \t {} null ~ # %",
        "  leading and trailing  ",
    ],
    ids=["longest", "noise", "control", "unicode", "escapes", "blanks"],
)
def test_a_prompt_comes_back_as_it_went_in(store: Store, prompt: str) -> None:
    task = a_task()
    store.add(task, a_request(prompt, metadata={"same": prompt[:200]}))

    request = store.get(task.ref).request

    assert request.prompt.encode() == prompt.encode()
    assert request.metadata == {"same": prompt[:200]}


def test_an_answer_of_4_mb_comes_back_as_it_went_in(store: Store) -> None:
    """Longer than a DynamoDB item, a page of a query and a transaction."""
    astral = range(0x10000, 0x110000)
    task, text = a_task(), "".join(map(chr, Random(7).choices(astral, k=MB)))
    processing, answer = claimed(task), an_output(text=text)
    assert len(text.encode()) == 4 * MB
    store.add(task, a_request(CLEF * 200_000))
    store.save(task, processing)
    store.keep(task.ref, answer)

    store.save(processing, processing.completed(answer))

    assert store.get(task.ref).result == text
    assert store.get(task.ref).request.prompt == CLEF * 200_000


def test_long_and_short_texts_of_one_task_keep_apart(store: Store) -> None:
    """Steps whose ids begin alike, each of another length."""
    task = a_task()
    before = claimed(task)
    store.add(task, a_request(noise(600_000)))
    store.save(task, before)
    outputs = by_key(*(an_output(f"STEP#{'a' * n}", noise(300_000 * n, seed=n)) for n in (1, 2, 3)))
    for output in outputs.values():
        after = before.progressed(output)
        store.save(before, after, output)
        before = after

    assert store.get(task.ref) == Snapshot(task=before, request=a_request(noise(600_000)), outputs=outputs)


def test_a_shorter_answer_replaces_a_longer_one(store: Store) -> None:
    task = a_task()
    store.add(task, a_request())
    store.keep(task.ref, an_output(text=noise(MB)))

    store.keep(task.ref, an_output(text="y", created_ms=NOW_MS))

    assert store.get(task.ref).outputs == by_key(an_output(text="y", created_ms=NOW_MS))
