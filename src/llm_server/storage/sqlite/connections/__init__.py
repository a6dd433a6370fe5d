"""The connections of one SQLite file: one thread makes all writes, and readers have connections of their own."""
