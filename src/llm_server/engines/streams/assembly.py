"""Put the events of a streamed answer together to the answer that the API gives without a stream."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol, TypeVar

import msgspec

from llm_server.engines.failures import unusable_answer
from llm_server.engines.usage import ReportedUsage
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.usage import Usage, estimate_tokens
from llm_server.orchestration.domain.errors import EngineUnavailable

Event_contra = TypeVar("Event_contra", contravariant=True)


class Assembly(Protocol[Event_contra]):
    """The part of an answer that has come so far; `text` is its text, and `arguments` those of its function calls.

    `is_finished`: the engine has said why its answer ends, so text and calls are complete. `is_over`: nothing follows.
    """

    @property
    def is_finished(self) -> bool: ...
    @property
    def is_over(self) -> bool: ...
    @property
    def text(self) -> str: ...
    @property
    def arguments(self) -> str: ...
    @property
    def has_begun(self) -> bool:
        """Whether a piece of the text or of a function call has come."""
        ...

    @abstractmethod
    def take(self, event: Event_contra) -> str:
        """Take an event; return the piece of the answer's text in it, or "".

        Raises:
            EngineUnavailable: the event is the API's one for a failure, or not one of the API.
        """
        ...

    def answer(self) -> dict[str, Any]:
        """Return the answer as the API gives it without a stream."""
        ...

    def usage(self) -> ReportedUsage:
        """Return the counts that have come; the count of the output is known only when the answer is finished."""
        ...


class Pieces:
    """The text and the function calls of an answer, as far as they have come. A call is found again by its key."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._size = 0
        self.calls: dict[int, StreamedCall] = {}

    def add(self, piece: Any) -> str:
        """Add a piece of text, and return it; "" if it is not text."""
        if not isinstance(piece, str) or not piece:
            return ""
        self._texts.append(piece)
        self._size += len(piece)
        return piece

    def call(self, key: int) -> StreamedCall:
        """Return the call with this key, a new one if the key is new."""
        return self.calls.setdefault(key, StreamedCall())

    @property
    def size(self) -> int:
        """How many characters have come."""
        return self._size + sum(call.size for call in self.calls.values())

    @property
    def has_begun(self) -> bool:
        return bool(self._texts or self.calls)

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def arguments(self) -> str:
        return "".join(call.name + call.arguments for call in self.calls.values())


class StreamedCall:
    """A function call of which more may come."""

    def __init__(self) -> None:
        self.call_id = ""
        self.name = ""
        self.size = 0
        self._arguments: list[str] = []

    def add(self, *, call_id: Any = None, name: Any = None, arguments: Any = None) -> None:
        """Add what an event has of the call; an id or name that is repeated has no further effect."""
        self.call_id = self.call_id or (call_id if isinstance(call_id, str) else "")
        self.name = self.name or (name if isinstance(name, str) else "")
        if isinstance(arguments, dict) and arguments:
            arguments = msgspec.json.encode(arguments).decode()
        if isinstance(arguments, str):
            self._arguments.append(arguments)
            self.size += len(arguments)

    @property
    def arguments(self) -> str:
        return "".join(self._arguments)


def usage_of_broken(assembly: Assembly[Any], call: EngineCall) -> Usage:
    """Return the tokens of an answer that broke off; estimates take the place of what was not reported."""
    return assembly.usage().completed(
        tokens_in=estimate_tokens(call.texts) + call.image_tokens,
        tokens_out=estimate_tokens(assembly.text + assembly.arguments),
    )


def broken(error: EngineUnavailable, assembly: Assembly[Any], call: EngineCall) -> EngineUnavailable:
    """Return the failure of a stream with the tokens that are known of it; if all are known, so is the bill."""
    if error.may_be_billed:
        error.usage = usage_of_broken(assembly, call)
        error.may_be_billed = error.usage.estimated
    return error


def failed(*, outage: bool = False) -> EngineUnavailable:
    """Return the failure for an event with which the engine says that it failed."""
    return EngineUnavailable("The engine failed while it answered.", outage=outage, may_be_billed=True)


def not_an_event() -> EngineUnavailable:
    """Return the failure for an event that is not one of the API."""
    return unusable_answer("The engine's answer has an event that cannot be read.")
