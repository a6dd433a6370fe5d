"""Finds faults in an engine's answer by reading its text; calls no engine and runs no code."""
