"""`python -m bench [NAME ...]`: run all benchmarks, or those named."""

import argparse
import importlib
import sys
from collections.abc import Mapping

from bench.report import Report

BENCHES: Mapping[str, str] = {
    "fold": "the pure fold alone, time of each stage",
    "worker": "one Faust worker beside naive Faust, Quix Streams and bare getmany + decode",
    "scaling": "one, two and four workers: CPU per event, pause at a join, equal counts",
    "pipeline": "gateway to API: sustained rate with bounded lag, and accepted to visible",
    "recovery": "a worker with a million open rows, killed",
    "memory": "a worker's memory over ten minutes, per million rows and ids",
    "ingest": "the gateway beside bare ASGI and FastAPI; answers at half load, memory under attack",
}


def main() -> int:
    """Run what was asked for; 1 when a benchmark fails to run (missing a goal is reported, not an error)."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, proves no number")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHES)}")
    for name in arguments.names or BENCHES:
        print(f"\n# {name}: {BENCHES[name]}", file=sys.stderr)
        report: Report = importlib.import_module(f"bench.{name}").run(quick=arguments.quick)
        report.publish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
