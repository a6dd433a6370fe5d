"""OpenAI's asynchronous Python client: an answer, and a stream of events."""

import asyncio

from openai import AsyncOpenAI

client = AsyncOpenAI()


async def main() -> None:
    response = await client.responses.create(model="gpt-5.5", input="Explain disestablishmentarianism to a child.")
    print(response.output_text)
    stream = await client.responses.create(
        model="gpt-5.5", input="Write a one-sentence bedtime story about a unicorn.", stream=True
    )
    print("".join([event.delta async for event in stream if event.type == "response.output_text.delta"]))


asyncio.run(main())
