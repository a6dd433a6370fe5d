"""API keys: who calls, what the key allows, and how much of it is left."""
