"""The embedded server: HTTP, workers and logs in one process over one SQLite file."""
