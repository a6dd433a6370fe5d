"""Models as files on this machine: the list, the download, and the engine that runs one in the process."""
