"""Fixtures for the tests from end to end."""

from support.llamacpp_server import llamacpp_server, planning_server, tiny_model

__all__ = ["llamacpp_server", "planning_server", "tiny_model"]
