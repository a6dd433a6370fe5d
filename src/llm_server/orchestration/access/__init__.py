"""API keys: finds out who calls, makes and changes keys, and enforces their limits."""
