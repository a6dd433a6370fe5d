"""What a request of the dialect becomes: a new task."""
