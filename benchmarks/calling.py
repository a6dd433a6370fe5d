"""One side of the engine-call benchmark, as a process of its own: `python calling.py SIDE URL`.

Two interpreters run it, ours and LiteLLM's, so each side imports its modules inside its function. It prints the CPU
seconds (user and system) of the import with the first client, and of the first call. Then it reads numbers, and prints
for each the CPU seconds of that many calls.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

MODEL = "gpt-4o-mini"  # both sides know its price
SYSTEM, PROMPT = "You answer.", "Why is the sky blue? " * 20
MAX_TOKENS, TIMEOUT_S = 200, 30
TEXT = "Hello from the fake engine."


def bare(url: str) -> Callable[[], str]:
    """Return a call that makes the HTTP exchange alone, which both other sides also need."""
    import json

    import urllib3

    pool = urllib3.PoolManager()
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}]
    headers = {"content-type": "application/json", "authorization": "Bearer k"}

    def call() -> str:
        body = json.dumps({"model": MODEL, "messages": messages, "max_tokens": MAX_TOKENS})
        answer: Any = pool.request(
            "POST", f"{url}/chat/completions", body=body, headers=headers, timeout=TIMEOUT_S
        ).json()
        return str(answer["choices"][0]["message"]["content"])

    return call


def ours(url: str) -> Callable[[], str]:
    """Return a call as a worker makes it: choice, limits, health, retry budget, exchange, price, receipt."""
    import tempfile
    from pathlib import Path

    from llm_server import catalog_loading, wiring
    from llm_server.engines import factory
    from llm_server.engines.credentials import Credentials
    from llm_server.engines.parts import EngineParts
    from llm_server.orchestration.dispatch.terms import CallTerms
    from llm_server.orchestration.domain.engines.allowed import AllowedEngines
    from llm_server.orchestration.domain.engines.call import EngineCall
    from llm_server.orchestration.domain.engines.message import user
    from llm_server.orchestration.routing.analysis import analyse
    from llm_server.settings import Settings
    from llm_server.storage.sqlite.database import Database
    from llm_server.storage.sqlite.store import SqliteStore

    folder = Path(tempfile.mkdtemp())
    config = folder / "engines.toml"
    engine = f'kind = "openai"\nsource = "api"\nmodel = "{MODEL}"\nprice_provider = "openai"\napi_key = "env:KEY"\n'
    config.write_text(f'[engines.fake]\n{engine}base_url = "{url}"\n')
    environ = {"LLM_SERVER_CONFIG": str(config), "KEY": "k"}
    settings = Settings.read(environ)
    catalog = catalog_loading.configured_catalog(settings)
    parts = EngineParts(catalog=catalog, credentials=Credentials(environ), analyse=analyse)
    adapters, store = factory.build(parts), SqliteStore(Database(folder / "tasks.db"))
    balancer = wiring.balancer_of(catalog, adapters, store, has_credentials=lambda spec: True, window=settings.window)

    def call() -> str:
        until_ms = wiring.now_ms() + TIMEOUT_S * 1000
        terms = CallTerms(purpose="answer", tier="fast", until_ms=until_ms, allowed=AllowedEngines(engine="fake"))
        reply = balancer.call(EngineCall(system=SYSTEM, messages=user(PROMPT), max_output_tokens=MAX_TOKENS), terms)
        assert reply.completion is not None, reply
        assert reply.attempts[0].cost_microusd
        return reply.completion.text

    return call


def litellm(url: str) -> Callable[[], str]:
    """Return a call with LiteLLM's SDK, which takes its prices from the package instead of the network."""
    import os

    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm as sdk

    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}]
    named: dict[str, Any] = {"model": f"openai/{MODEL}", "api_base": url, "api_key": "k"}

    def call() -> str:
        answer = sdk.completion(messages=messages, max_tokens=MAX_TOKENS, temperature=0.3, timeout=TIMEOUT_S, **named)
        assert answer._hidden_params["response_cost"]
        return str(answer.choices[0].message.content)

    return call


def main(side: str, url: str) -> None:
    start = time.process_time()
    call = {"bare": bare, "ours": ours, "litellm": litellm}[side](url)
    print(time.process_time() - start, flush=True)
    print(_cpu_s(call, 1), flush=True)
    for line in sys.stdin:
        print(_cpu_s(call, int(line)), flush=True)


def _cpu_s(call: Callable[[], str], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        text = call()
    spent = time.process_time() - start
    assert text == TEXT, text
    return spent


if __name__ == "__main__":
    main(*sys.argv[1:])
