"""Hunts for false certificates: hostile networks, points, attacks at our own radius.

    python scripts/hunt_false_certificates.py --cases 1000000 --processes 2

What a case is, and why a norm three millionths too small would be found, stands in
tests/soundness/hunting.py, which `make test` runs for 2,000 cases. Each thousand cases have a seed
of their own, from --seed on, so that a finding can be repeated. The status is 1 if a certificate is
false.
"""

import argparse
import concurrent.futures
import multiprocessing
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

THOUSAND = 1000


def hunt_a_thousand(seed: int) -> tuple[int, int, list[str], float]:
    """One thousand cases: how many, how many certified, what was found, the nearest miss."""
    from threadpoolctl import threadpool_limits

    from tests.soundness.hunting import hunt

    with threadpool_limits(1):
        found = hunt(THOUSAND, seed=seed)
    return found.cases, found.certified, found.false, found.nearest


def main() -> int:
    """Runs the hunt with a line of progress now and then."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1_000_000, help="rounded up to thousands")
    parser.add_argument("--seed", type=int, default=0, help="of the first thousand")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.cases < 1 or options.processes < 1:
        parser.error("--cases and --processes are at least 1")
    start, cases, certified, false, nearest = time.time(), 0, 0, [], float("inf")
    seeds = range(options.seed, options.seed + -(-options.cases // THOUSAND))
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.processes, context) as pool:
        for number, result in enumerate(pool.map(hunt_a_thousand, seeds), start=1):
            cases, certified = cases + result[0], certified + result[1]
            false, nearest = false + result[2], min(nearest, result[3])
            for finding in result[2]:
                print(f"FALSE CERTIFICATE: {finding}", flush=True)
            if number % 10 == 0 or number == len(seeds):
                hours = (time.time() - start) / 3600
                print(
                    f"{cases:,} cases, {certified:,} with a radius, {len(false)} false, nearest "
                    f"attack left {nearest:.3g} of the lead, {hours:.2f} hours",
                    flush=True,
                )
    return 1 if false else 0


if __name__ == "__main__":
    sys.exit(main())
