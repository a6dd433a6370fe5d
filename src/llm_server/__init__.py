"""LLM-Server: the task server between programs and their LLMs."""

__version__ = "0.2.0"
