"""Fixtures for every test."""

pytest_plugins = ["aws_emulators", "scripted", "served"]
