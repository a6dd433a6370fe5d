"""Pass the text of a streamed answer on, but never a text that ends it, nor what follows that text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llm_server.orchestration.domain.engines.catalog import EngineSpec

LLAMA_END = "</s>"
"""The end of an answer of Llama 2 and Mistral, unless it closes an HTML `<s>`."""


def end_of(text: str, spec: EngineSpec) -> int | None:
    """Return where the first text begins that ends an answer of this engine; None without one."""
    ends = [at for stop in spec.stop_texts if (at := text.find(stop)) >= 0]
    if spec.is_small:
        before, mark, _ = text.partition(LLAMA_END)
        if mark and "<s>" not in before:
            ends.append(len(before))
    return min(ends, default=None)


class ShownText:
    """Passes pieces of text to `on_text` as soon as it is sure that they belong to the answer.

    A tail that could be the beginning of a text that ends the answer is held back until more of the text shows whether
    it is one. Then `finish` passes the rest on, so that the pieces together are the text of the completion.
    """

    def __init__(self, spec: EngineSpec, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._stops = list(spec.stop_texts)
        self._llama_ends = spec.is_small
        self._shown: list[str] = []
        self._tail = ""
        self._has_ended = False

    def take(self, piece: str) -> None:
        """Take the next piece of the engine's text."""
        if self._has_ended:
            return
        self._tail += piece
        sure = self._sure()
        piece, self._tail = self._tail[:sure], self._tail[sure:]
        self._show(piece)

    def finish(self, text: str) -> None:
        """Pass on what is missing of the answer's whole text."""
        self._show(text[sum(map(len, self._shown)) :])

    def _sure(self) -> int:
        """Return how much of the tail belongs to the answer, whatever follows. What was shown has no end in it."""
        ends = [at for stop in self._stops if (at := self._tail.find(stop)) >= 0]
        if self._llama_ends and (at := self._tail.find(LLAMA_END)) >= 0:
            self._llama_ends = "<s>" not in "".join([*self._shown, self._tail[:at]])
            ends += [at] if self._llama_ends else []
        open_end = _begun(self._tail, [*self._stops, *([LLAMA_END] if self._llama_ends else [])])
        end = min(ends, default=open_end)
        self._has_ended = bool(ends) and end <= open_end
        return min(end, open_end)

    def _show(self, piece: str) -> None:
        if piece:
            self._shown.append(piece)
            self._on_text(piece)


def _begun(text: str, stops: Sequence[str]) -> int:
    """Return where the longest tail of the text begins that could become one of the stops; its length if none could."""
    longest = max(map(len, stops), default=1) - 1
    for at in range(max(0, len(text) - longest), len(text)):
        if any(stop.startswith(text[at:]) for stop in stops):
            return at
    return len(text)
