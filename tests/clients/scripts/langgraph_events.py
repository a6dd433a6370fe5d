"""Read a task's event stream with the reader of LangGraph's SDK; prints the names and the text as JSON."""

import json
import sys

import httpx
from langgraph_sdk.sse import BytesLineDecoder, SSEDecoder

names, text = [], ""
lines, decoder = BytesLineDecoder(), SSEDecoder()
with httpx.stream("GET", sys.argv[1], headers={"Accept": "text/event-stream"}, timeout=60) as answer:
    for data in answer.iter_bytes():
        for line in lines.decode(data):
            part = decoder.decode(line.rstrip(b"\n"))
            if part is not None and part.event:  # without one, only `retry`
                names.append(part.event)
                text += (part.data or {}).get("text", "")
print(json.dumps({"names": names, "text": text}))
