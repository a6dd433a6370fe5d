"""What a task may cost at most, and what tasks like it have cost."""
