"""What the orchestration knows of engines: their configuration, which of them a task may call, a call, their state."""
