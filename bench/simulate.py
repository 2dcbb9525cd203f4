"""`make simulate`: how a group's traffic is shared out when something befalls it, as a table and as a picture."""

import argparse
import sys
import time
from pathlib import Path

from bench.console import exit_status, progress
from bench.picture import draw
from bench.report import table
from bench.scenarios import BEGIN_S, END_S, SCENARIOS, UNTIL_S
from bench.simulator import Outcome

_STEP_S = 2.0
_HEADS = ("scenario", "what happens", "a before / during / after", "asked of a, 60 to 180 s", "attempts/request",
          "regret", "failed", "of")  # fmt: skip


def steps(outcome: Outcome) -> list[list[float]]:
    """The shares of all in every step of time."""
    counts = [[0] * len(outcome.names) for _ in range(int(UNTIL_S / _STEP_S))]
    for each in outcome.attempts:
        if each.at < UNTIL_S:
            counts[int(each.at / _STEP_S)][each.place] += 1
    return [[count / max(1, sum(step)) for count in step] for step in counts]


def row(name: str, outcome: Outcome) -> list[str]:
    """The figures of one scenario."""
    spans = ((20, BEGIN_S), (90, END_S), (240, UNTIL_S))
    regret = "" if not SCENARIOS[name].fair else f"{100 * outcome.regret(90, END_S):.1f} %"
    return [
        name, SCENARIOS[name].summary, " / ".join(f"{100 * outcome.share(0, *span):.1f} %" for span in spans),
        str(outcome.count(0, BEGIN_S, END_S)), f"{outcome.amplification(BEGIN_S, END_S):.3f}", regret,
        str(outcome.failed()), str(len(outcome.requests)),
    ]  # fmt: skip


def main() -> int:
    """Play every scenario, print the table, write the picture."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=__doc__)
    parser.add_argument("--strategy", default="adaptive", help="the group's strategy (default: adaptive)")
    parser.add_argument("--rate", type=float, help="requests a second, instead of each scenario's own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--png", type=Path, default=Path("simulation.png"), metavar="FILE")
    args = parser.parse_args()
    began = time.perf_counter()
    outcomes = {name: each.run(args.strategy, rate=args.rate, seed=args.seed) for name, each in SCENARIOS.items()}
    requests = sum(len(each.requests) for each in outcomes.values())
    print(table(_HEADS, [row(*each) for each in outcomes.items()]))
    draw([steps(each) for each in outcomes.values()], args.png, [int(at / _STEP_S) for at in (BEGIN_S, END_S)])
    progress(f"{requests:,} requests in {time.perf_counter() - began:.1f} s.")
    progress(f"{args.png}: a band for each scenario in this order, time from left to right; a red, b blue, c green.")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
