"""The pydantic schemas of the HTTP contract: what comes in and what goes out."""
