"""The JSON schema of a task's result: which schemas are accepted, and how a value is checked against one."""
