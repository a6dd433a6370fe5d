"""Decides from the prompt alone how a task is done: mode, role, complexity, tier."""
