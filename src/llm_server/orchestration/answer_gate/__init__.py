"""Finds faults in an engine's answer from its text alone, without calling an engine or running code."""
