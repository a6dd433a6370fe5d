"""The pydantic schemas of the HTTP contract: requests and responses."""
