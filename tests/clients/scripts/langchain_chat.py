"""LangChain's ChatOpenAI: an answer, a stream, a structured answer and a tool call; prints JSON."""

import json

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Animal(BaseModel):
    """An animal."""

    name: str
    legs: int


@tool
def get_weather(city: str) -> str:
    """Return the weather of a city."""
    return f"Sunny in {city}."


model = ChatOpenAI(model="gpt-5.5")
messages = [
    ("system", "You are a helpful assistant that translates English to French."),
    ("human", "I love programming."),
]
found = {
    "invoke": model.invoke(messages).text,
    "stream": "".join(chunk.text for chunk in model.stream(messages)),
    "structured": model.with_structured_output(Animal).invoke("Name an animal.").model_dump(),
    "tool": model.bind_tools([get_weather]).invoke("What is the weather in Paris? Use the tool.").tool_calls,
}
print(json.dumps(found))
