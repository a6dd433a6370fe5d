"""The database file itself: its lock, its backup before a migration, and the marker that it has been in use."""
