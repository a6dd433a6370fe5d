"""The routes of the HTTP contract: each parses, calls one method of the service, and formats."""
