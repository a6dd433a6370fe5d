"""Accepts, processes, sweeps, approves, cancels, retries and deletes tasks, and derives a task's history."""
