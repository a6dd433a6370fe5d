"""Run the benchmarks named on the command line, or all of them. The name of a part of `peers` runs that part alone.

`engines` needs LiteLLM, which takes 200 MB. Unless it is named, it runs only if LiteLLM is installed already.
`first_minute` installs everything into a clone, so it runs only if it is named.
"""

import sys

from benchmarks import (
    analysis,
    batch,
    calls,
    cost,
    engines,
    environments,
    first_minute,
    imports,
    own_roles,
    plans,
    routing,
    streams,
    triage,
)
from benchmarks.peers import run as peers

BENCHMARKS = {
    "analysis": analysis.run,
    "imports": imports.run,
    "calls": calls.run,
    "cost": cost.run,
    "batch": batch.run,
    "plans": plans.run,
    "peers": peers.run,
    "routing": routing.run,
    "own_roles": own_roles.run,
    "triage": triage.run,
    "streams": streams.run,
    "engines": engines.run,
    "first_minute": first_minute.run,
}


def main(names: list[str]) -> int:
    parts = [name for name in names if name in peers.PARTS]
    wanted = [name for name in names if name not in (*parts, "peers" if parts else "")]
    unknown = [name for name in wanted if name not in BENCHMARKS]
    if unknown:
        known = ", ".join((*BENCHMARKS, *peers.PARTS))
        print(f"Unknown benchmark: {', '.join(unknown)}; known are {known}.", file=sys.stderr)
        return 2
    if parts:
        print("\npeers", flush=True)
        peers.run(parts)
    elif not names:
        absent = {"first_minute"} if environments.folder("litellm").exists() else {"first_minute", "engines"}
        wanted = [name for name in BENCHMARKS if name not in absent]
    for name in wanted:
        print(f"\n{name}", flush=True)
        BENCHMARKS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
