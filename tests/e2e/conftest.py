"""Fixtures for the tests from end to end."""

from llamacpp import llamacpp_server

__all__ = ["llamacpp_server"]
