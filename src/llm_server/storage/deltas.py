"""The stored form of a group of deltas, in one form for both stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from llm_server.orchestration.domain.errors import RecordUnreadable
from llm_server.orchestration.domain.ports.deltas import Delta


class _Run(msgspec.Struct, omit_defaults=True):
    """Deltas of one item with consecutive numbers from `number` on. `after_ms` are counted from `at_ms`."""

    number: int
    item: int
    at_ms: int
    texts: list[str]
    after_ms: list[int]
    step: str = ""


_RUNS = msgspec.json.Decoder(list[_Run])


def encode(deltas: Iterable[Delta]) -> str:
    """Return a group of deltas as JSON."""
    runs = list[_Run]()
    for delta in deltas:
        last = runs[-1] if runs else None
        if last is None or last.item != delta.item or last.number + len(last.texts) != delta.number:
            last = _Run(delta.number, delta.item, delta.at_ms, [], [], delta.step)
            runs.append(last)
        last.texts.append(delta.text)
        last.after_ms.append(delta.at_ms - last.at_ms)
    return msgspec.json.encode(runs).decode()


def decode(body: str) -> Iterator[Delta]:
    """Read a group of deltas. Raises RecordUnreadable."""
    try:
        runs = _RUNS.decode(body)
    except msgspec.MsgspecError as error:
        raise RecordUnreadable from error
    for run in runs:
        for index, (text, after_ms) in enumerate(zip(run.texts, run.after_ms, strict=False)):
            number, at_ms = run.number + index, run.at_ms + after_ms
            yield Delta(number=number, item=run.item, text=text, at_ms=at_ms, step=run.step)


def merged(deltas: Sequence[Delta]) -> list[Delta]:
    """Join neighbouring deltas of the same item. A joined delta has the number and the time of its last piece."""
    found = list[list[Delta]]()
    for delta in deltas:
        if found and found[-1][-1].item == delta.item:
            found[-1].append(delta)
        else:
            found.append([delta])
    return [msgspec.structs.replace(run[-1], text="".join(delta.text for delta in run)) for run in found]
