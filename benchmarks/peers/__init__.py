"""The embedded server beside task queues on Redis: the targets of its speed, measured over HTTP in one run."""
