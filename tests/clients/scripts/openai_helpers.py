"""OpenAI's helpers for streams, background, resumption, structured answers, tools and conversations; prints JSON."""

import json
import time

from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel

client = OpenAI()
found = {}


class Animal(BaseModel):
    name: str
    legs: int


class GetWeather(BaseModel):
    city: str


with client.responses.stream(model="auto", input="Tell me about foxes.") as stream:
    texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
    final = stream.get_final_response()
found["stream"] = ["".join(texts), final.output_text, final.status]

with client.chat.completions.stream(model="auto", messages=[{"role": "user", "content": "Tell me more."}]) as chat:
    texts = [event.delta for event in chat if event.type == "content.delta"]
    completion = chat.get_final_completion()
found["chat stream"] = ["".join(texts), completion.choices[0].message.content]

chunks = client.chat.completions.create(
    model="auto",
    messages=[{"role": "user", "content": "And more."}],
    stream=True,
    stream_options={"include_usage": True},
)
found["usage"] = [chunk.usage.total_tokens for chunk in chunks if chunk.usage]

background = client.responses.create(model="auto", input="Take your time.", background=True)
found["background"] = [background.status in ("queued", "in_progress")]
while background.status in ("queued", "in_progress"):
    time.sleep(0.1)
    background = client.responses.retrieve(background.id)
found["background"] += [background.status, background.output_text]

started = client.responses.create(model="auto", input="Write slowly.", background=True, stream=True)
seen = []
for event in started:
    seen.append(event)
    if event.type == "response.output_text.delta":
        break
started.close()
response_id = seen[0].response.id
rest = list(client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number))
numbers = [event.sequence_number for event in [*seen, *rest]]
found["resumed"] = [
    "".join(event.delta for event in [*seen, *rest] if event.type == "response.output_text.delta"),
    numbers == sorted(set(numbers)),
    rest[-1].type,
]

parsed = client.responses.parse(model="auto", input="Name an animal.", text_format=Animal)
found["parsed"] = parsed.output_parsed.model_dump()
chatted = client.chat.completions.parse(
    model="auto", messages=[{"role": "user", "content": "Name an animal."}], response_format=Animal
)
found["chat parsed"] = chatted.choices[0].message.parsed.model_dump()

tools = [pydantic_function_tool(GetWeather)]
question = {"role": "user", "content": "What is the weather in Paris? Use the tool."}
asked = client.chat.completions.create(model="auto", messages=[question], tools=tools).choices[0]
call = asked.message.tool_calls[0]
found["tool"] = [asked.finish_reason, call.function.name, json.loads(call.function.arguments)]
result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
told = client.chat.completions.create(model="auto", messages=[question, asked.message, result], tools=tools)
found["tool result"] = told.choices[0].message.content

first = client.responses.create(model="auto", input="My name is Ada.")
second = client.responses.create(model="auto", input="What is my name?", previous_response_id=first.id)
found["previous"] = [second.previous_response_id == first.id, second.output_text]
conversation = client.conversations.create()
for text in ("My name is Bob.", "What is my name?"):
    last = client.responses.create(model="auto", input=text, conversation=conversation.id)
found["conversation"] = [last.output_text, len(client.responses.input_items.list(last.id).data) > 0]

waiting = client.responses.create(model="auto", input="Wait for me.", background=True)
found["cancelled"] = client.responses.cancel(waiting.id).status in ("cancelled", "completed")
client.responses.delete(first.id)
found["models"] = {"auto", "chat", "agent", "plan"} <= {model.id for model in client.models.list()}
print(json.dumps(found))
