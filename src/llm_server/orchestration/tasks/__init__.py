"""The life of a stored task: it is accepted, worked on, swept, approved, cancelled, retried, deleted; its history."""
