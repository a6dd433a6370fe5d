"""The embedded server: HTTP server, workers and logs in one process, with one SQLite file."""
