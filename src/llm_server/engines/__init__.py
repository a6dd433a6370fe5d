"""The adapters of the `Engine` port, one for each kind of engine, and their shared HTTP, keys, prices and discovery."""
