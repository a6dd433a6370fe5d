"""The database file itself: its lock, its backups, and the marker that it has been in use."""
