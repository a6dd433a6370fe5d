"""API keys: identifies callers, creates and changes keys, and enforces their limits."""
