"""Hunts for false certificates: hostile networks, points, attacks at our own radius.

    python scripts/hunt_false_certificates.py --cases 1000000 --processes 2
    python scripts/hunt_false_certificates.py --through api --cases 20000 --processes 2

By default a case goes through the norms and the code that writes certificate files; what it is,
and why a norm three millionths too small would be found, stands in tests/soundness/hunting.py. With
--through api it goes through `gj.freeze` and `gj.certify`, in bodies with layers of one's own,
mapped trees, kept activations and foreign constants (tests/soundness/api_hunting.py), and is
counted by kind: refused, certified, false. `make test` runs some of both. Each portion of cases has
a seed of its own, from --seed on, so that a finding can be repeated. The status is 1 if a
certificate is false, or if a kind had nothing certified, which counts as not tried.
"""

import argparse
import collections
import concurrent.futures
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

THOUSAND = 1000
# Of the cases through the API: bodies in a portion (each kind twice), draws of weights for each.
BODIES, WEIGHTS = 14, 10


def hunt_a_thousand(seed: int) -> tuple[int, int, list[str], float]:
    """One thousand cases: how many, how many certified, what was found, the nearest miss."""
    from threadpoolctl import threadpool_limits

    from tests.soundness.hunting import hunt

    with threadpool_limits(1):
        found = hunt(THOUSAND, seed=seed)
    return found.cases, found.certified, found.false, found.nearest


def hunt_through_api(seed: int) -> tuple[collections.Counter, list[str]]:
    """One portion of cases through the API: counts by kind and outcome, and what was found."""
    from threadpoolctl import threadpool_limits

    from tests.soundness.api_hunting import hunt

    with threadpool_limits(1):
        found = hunt(BODIES, weights=WEIGHTS, seed=seed)
    return found.counts, found.false


def main() -> int:
    """Runs the hunt with a line of progress now and then."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--through", choices=["files", "api"], default="files")
    parser.add_argument("--cases", type=int, default=1_000_000, help="rounded up to portions")
    parser.add_argument("--seed", type=int, default=0, help="of the first portion")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.cases < 1 or options.processes < 1:
        parser.error("--cases and --processes are at least 1")
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.processes, context) as pool:
        return (_through_api if options.through == "api" else _through_files)(options, pool)


def _through_files(options: argparse.Namespace, pool: concurrent.futures.Executor) -> int:
    start, cases, certified, false, nearest = time.time(), 0, 0, 0, float("inf")
    seeds = range(options.seed, options.seed + -(-options.cases // THOUSAND))
    for number, result in enumerate(pool.map(hunt_a_thousand, seeds), start=1):
        cases, certified = cases + result[0], certified + result[1]
        false, nearest = false + _printed(result[2]), min(nearest, result[3])
        if number % 10 == 0 or number == len(seeds):
            print(
                f"{cases:,} cases, {certified:,} with a radius, {false} false, nearest attack left "
                f"{nearest:.3g} of the lead, {_hours(start)}",
                flush=True,
            )
    return 1 if false or not certified else 0


def _through_api(options: argparse.Namespace, pool: concurrent.futures.Executor) -> int:
    from tests.soundness.api_hunting import KINDS, POINTS

    start, false, counts = time.time(), 0, collections.Counter()
    portion = BODIES * WEIGHTS * POINTS
    seeds = range(options.seed, options.seed + -(-options.cases // portion))
    for number, result in enumerate(pool.map(hunt_through_api, seeds), start=1):
        counts.update(result[0])
        false += _printed(result[1])
        cases = sum(n for (_, outcome), n in counts.items() if outcome != "false")
        print(
            f"{cases:,} cases, {number * BODIES} bodies, {false} false, {_hours(start)}", flush=True
        )
    outcomes = ("refused", "not certified", "certified", "false")
    print("\n".join(_rows(counts, KINDS, outcomes)))
    untried = [kind for kind in KINDS if not counts[kind, "certified"]]
    if untried:
        print(f"Not tried, since nothing of it certified: {', '.join(untried)}")
    return 1 if false or untried else 0


def _rows(
    counts: collections.Counter, kinds: tuple[str, ...], outcomes: tuple[str, ...]
) -> Iterator[str]:
    yield f"{'kind':22}" + "".join(f"{outcome:>15}" for outcome in outcomes)
    for kind in kinds:
        yield f"{kind:22}" + "".join(f"{counts[kind, outcome]:15,}" for outcome in outcomes)


def _printed(findings: list[str]) -> int:
    for finding in findings:
        print(f"FALSE CERTIFICATE: {finding}", flush=True)
    return len(findings)


def _hours(start: float) -> str:
    return f"{(time.time() - start) / 3600:.2f} hours"


if __name__ == "__main__":
    sys.exit(main())
