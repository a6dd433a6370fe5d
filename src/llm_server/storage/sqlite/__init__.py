"""The storage ports and the Queue port over one SQLite file."""
