"""Run `llm-server` with few open files, which bounds its connections: `python -m support.few_files serve`."""

from __future__ import annotations

import resource

from llm_server.__main__ import main

MAX_OPEN_FILES = 256
MAX_CONNECTIONS = MAX_OPEN_FILES // 2

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    main()
