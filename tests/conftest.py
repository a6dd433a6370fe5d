"""Fixtures for every test."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["canaries", "aws_emulators", "deployed", "pytester", "scripted", "served"]

# A busy machine is no finding; what took long is for the benchmarks to say.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
