"""What a task becomes in the dialect: a response, a chat completion, and the events of their streams."""
