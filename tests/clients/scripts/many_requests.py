"""Send requests with OpenAI's Python library, eight at a time; print the answers. Arguments: the prompts."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from openai import OpenAI

client = OpenAI(timeout=2.0)


def ask(place: int) -> str | None:
    prompt = sys.argv[1 + place]
    if place % 2:
        return client.responses.create(model="auto", input=prompt).output_text
    messages = [{"role": "user", "content": prompt}]
    return client.chat.completions.create(model="auto", messages=messages).choices[0].message.content


with ThreadPoolExecutor(8) as pool:
    print(json.dumps(list(pool.map(ask, range(len(sys.argv) - 1)))))
