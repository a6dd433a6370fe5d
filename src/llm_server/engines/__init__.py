"""The adapters of the Engine port, one for each kind of engine, and what they share: HTTP, keys, prices, discovery."""
