"""What users are told about the engines that answer only while no real engine is configured or found."""

from __future__ import annotations

BETTER_MODEL = "qwen2.5-1.5b"
BETTER = f"make run MODEL={BETTER_MODEL}"
"""The command that downloads a better model and starts the server with it, in the folder of the repository."""

OF_MODEL = (
    "A demonstration model of 135 million parameters, which is often wrong. For a good model, run "
    f"`{BETTER}` (1.1 GB) in the repository's folder."
)
OF_EMBEDDED = (
    "No LLM: the embedded engine measures a prompt but does not understand it. Its answers say how to configure an LLM."
)
