"""Models as GGUF files on this machine: finding them, downloading them, and running one in the process."""
