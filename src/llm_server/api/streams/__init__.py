"""The events of a task as a stream: what a reader is sent, where it goes on, and where its events come from."""
