"""What a task takes from the turns before it: its place in a conversation, its role, and what its engines are told."""
