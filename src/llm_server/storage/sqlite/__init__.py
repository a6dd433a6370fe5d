"""Adapters of the storage and queue ports over one SQLite file."""
