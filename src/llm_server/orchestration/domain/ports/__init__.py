"""What the orchestration needs from outside. Every adapter of a port passes the same contract suite."""
