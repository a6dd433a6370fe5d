"""The command line `llm-server`: one module for each group of commands, the HTTP client, and the output."""
