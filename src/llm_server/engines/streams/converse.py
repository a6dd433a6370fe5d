"""Read the stream of Bedrock's ConverseStream.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

from __future__ import annotations

from typing import Any

from llm_server.engines.streams.assembly import Pieces, not_an_event
from llm_server.engines.usage import ReportedUsage, converse_usage
from llm_server.engines.wire import json_object


class ConverseStream(Pieces):
    """The events of an answer, as boto3 reads them. `messageStop` has the reason of its end, `metadata` the usage."""

    def __init__(self) -> None:
        super().__init__()
        self.is_over = False
        self._stop_reason: Any = None
        self._usage: Any = None

    @property
    def is_finished(self) -> bool:
        return self._stop_reason is not None

    def take(self, event: dict[str, Any]) -> str:
        for name, fields in event.items():
            match name:
                case "contentBlockStart":
                    if use := json_object(json_object(fields.get("start")).get("toolUse")):
                        self.call(_index(fields)).add(call_id=use.get("toolUseId"), name=use.get("name"))
                case "contentBlockDelta":
                    return self._take_delta(_index(fields), fields.get("delta"))
                case "messageStop":
                    self._stop_reason = fields.get("stopReason")
                case "metadata":
                    self._usage, self.is_over = fields.get("usage"), True
        return ""

    def answer(self) -> dict[str, Any]:
        calls = [
            {"toolUse": {"toolUseId": call.call_id, "name": call.name, "input": call.arguments}}
            for call in self.calls.values()
        ]
        message = {"content": [{"text": self.text}, *calls]}
        return {"output": {"message": message}, "stopReason": self._stop_reason, "usage": self._usage}

    def usage(self) -> ReportedUsage:
        return converse_usage({"usage": self._usage})

    def _take_delta(self, index: int, delta: Any) -> str:
        if not isinstance(delta, dict):
            raise not_an_event()
        if use := json_object(delta.get("toolUse")):
            self.call(index).add(arguments=use.get("input"))
        return self.add(delta.get("text"))


def _index(fields: dict[str, Any]) -> int:
    index = fields.get("contentBlockIndex")
    if not isinstance(index, int):
        raise not_an_event()
    return index
