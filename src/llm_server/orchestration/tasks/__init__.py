"""The life of a stored task: accept, work, sweep, approve, cancel, retry, delete, and its history."""
