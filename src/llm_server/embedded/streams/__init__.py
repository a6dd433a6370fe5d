"""The live readers of the embedded server: they are told of commits and of text without polling the database."""
