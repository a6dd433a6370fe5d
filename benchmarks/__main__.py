"""Run the benchmarks named on the command line, or all of them.

`engines` needs LiteLLM, which takes 200 MB. Unless it is named, it runs only if LiteLLM is installed already.
"""

import sys

from benchmarks import analysis, batch, calls, cost, engines, imports, plans, routing, throughput

BENCHMARKS = {
    "analysis": analysis.run,
    "imports": imports.run,
    "calls": calls.run,
    "cost": cost.run,
    "batch": batch.run,
    "plans": plans.run,
    "throughput": throughput.run,
    "routing": routing.run,
    "engines": engines.run,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"Unknown benchmark: {', '.join(unknown)}; known are {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    for name in names or [name for name in BENCHMARKS if name != "engines" or engines.ENVIRONMENT.exists()]:
        print(f"\n{name}", flush=True)
        BENCHMARKS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
