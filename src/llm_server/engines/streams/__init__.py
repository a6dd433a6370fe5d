"""Answers that engines stream: reading their events, and passing their text on without the texts that end an answer."""
