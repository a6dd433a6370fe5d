"""The smallest engine that the server can use: the one POST of the Chat Completions API, with the standard library.

    python examples/own_engine/engine.py        # listens on http://127.0.0.1:9000
    LLM_SERVER_CONFIG=examples/own_engine/engines.toml llm-server serve

Replace `answer` with your own model, or leave it unchanged to test a client without a model.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def answer(messages: list[dict[str, Any]]) -> str:
    """Return the engine's text. The last message is the prompt; the first one is the role's system prompt."""
    return f"You asked: {messages[-1]['content']}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self.reply(404, {"error": {"message": f"The path {self.path} does not exist."}})
            return
        text = answer(body["messages"])
        prompt_text = " ".join(str(message["content"]) for message in body["messages"])
        self.reply(
            200,
            {
                "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": len(prompt_text.split()), "completion_tokens": len(text.split())},
            },
        )

    def reply(self, status: int, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main(port: int = 9000) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
