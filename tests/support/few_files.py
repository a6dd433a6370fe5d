"""Run `llm-server` with few open files, which bounds its connections: `python -m support.few_files serve`.

The environment variable FEW_FILES_HARD_LIMIT allows the server to raise the soft limit that far.
"""

from __future__ import annotations

import os
import resource

from llm_server.__main__ import main

HARD_LIMIT = "FEW_FILES_HARD_LIMIT"
MAX_OPEN_FILES = 256
MAX_CONNECTIONS = MAX_OPEN_FILES // 2

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, int(os.environ.get(HARD_LIMIT, MAX_OPEN_FILES))))
    main()
