"""Fixtures for every test."""

import os

from hypothesis import HealthCheck, settings

pytest_plugins = [
    "support.canaries",
    "support.aws_emulators",
    "support.deployment",
    "pytester",
    "support.scripted_engine",
    "support.scripted_service",
]

# Only tests/demonstration use the demonstration model, which `make run` may have installed in this environment.
os.environ.setdefault("LLM_SERVER_MODEL", "none")

# A slow machine is not a failure; durations are measured by the benchmarks.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
