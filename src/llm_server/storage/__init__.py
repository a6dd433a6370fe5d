"""Adapters of the storage and queue ports, for AWS and for SQLite, and the records that both write."""
