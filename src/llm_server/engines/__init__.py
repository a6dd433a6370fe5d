"""The adapters of the Engine port, one for each wire, and what they share: HTTP, credentials, prices, discovery."""
