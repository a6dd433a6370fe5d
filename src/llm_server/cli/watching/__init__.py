"""The command line's view of a running task: its events over lost connections, and how they are shown."""
