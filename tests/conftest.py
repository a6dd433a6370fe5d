"""Fixtures for every test."""

from hypothesis import HealthCheck, settings

pytest_plugins = [
    "support.canaries",
    "support.aws_emulators",
    "support.deployment",
    "pytester",
    "support.scripted_engine",
    "support.scripted_service",
]

# A busy machine is no finding; what took long is for the benchmarks to say.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
