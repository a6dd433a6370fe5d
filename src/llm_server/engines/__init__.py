"""The adapters of the `Engine` port, one for each kind of engine; their HTTP, keys and prices; and discovery."""
