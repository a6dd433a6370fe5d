"""The adapters of the storage and queue ports: one room for AWS, one for SQLite, and the records both write."""
