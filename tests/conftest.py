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

# A slow machine is not a failure; durations are measured by the benchmarks.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
