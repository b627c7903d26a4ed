"""``python -m benchmarks``: list the benchmarks; ``python -m benchmarks NAME [--repeat N]``: run one."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys

import benchmarks
from benchmarks.runner import report
from benchmarks.yardstick import set_up

NOT_BENCHMARKS = ("__main__", "measured_process", "runner", "simulated_ct", "yardstick")


def names() -> list[str]:
    return [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in NOT_BENCHMARKS]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", help="a benchmark, or 'setup' to build the yardstick's virtual environment")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="interleaved repetitions (default 5)")
    options = parser.parse_args()
    if options.name is None:
        for name in names():
            first_line = (importlib.import_module(f"benchmarks.{name}").__doc__ or "").splitlines()[0]
            print(f"{name:24}{first_line}")
        print(f"{'setup':24}Build the yardstick's own virtual environment (nnU-Net 2.8.1) in benchmarks/yardstick.")
        return 0
    if options.name == "setup":
        return set_up()
    if options.name not in names():
        print(f"error: no benchmark '{options.name}'. Known: {', '.join(names())}.", file=sys.stderr)
        return 2
    module = importlib.import_module(f"benchmarks.{options.name}")
    report(options.name, module.run(options.repeat))
    return 0


if __name__ == "__main__":
    sys.exit(main())
