"""The events of a task, and the text of a streamed one: both derived from its records, or kept beside them."""
