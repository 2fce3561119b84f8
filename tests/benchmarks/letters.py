"""Time of one multiple-choice prompt's attribution against a hook loop, on random weights, with the agreement.

    python tests/benchmarks/letters.py                # Llama-style 12 x 512, 120 tokens, 16 steps; one thread
    python tests/benchmarks/letters.py --rounds 3

A letter counts by all its tokens; the loop, which knows one, is given a letter of one. Both compute the scores and how complete
they are, which takes one point more a layer. Never part of the test suite.
"""

import argparse
import statistics
from dataclasses import replace
from functools import partial

import torch
from attribution import LLAMA, build, difference, make_prompts, measured, seconds
from peers import hook_loop

STEPS, TOKENS, GOAL = 16, 120, 100
# Of ours, before and after each loop: half a second alone is at the mercy of what else runs.
RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build("llama", LLAMA, "cpu")
    plain = make_prompts(model, TOKENS, 1)
    letters = [replace(site, sets=((site.target,), (3,), (4,), (5,))) for site in plain]
    run = partial(measured, model, letters, quadrature="riemann", steps=STEPS)
    run()  # not timed: first touches of memory
    loop, own = [], []
    for _ in range(options.rounds):
        # Ours before and after: what else the machine does changes by the minute.
        own += [seconds(model, run)[0] for _ in range(RUNS)]
        changes = []
        spent, expected = seconds(model, partial(hook_loop, changes=changes), model, plain, STEPS)
        loop.append(spent)
        own += [seconds(model, run)[0] for _ in range(RUNS)]
    found, _, own_changes, _ = run()
    times = statistics.median(loop) / statistics.median(own)
    print(f"Llama-style 12 x 512, {TOKENS} tokens, {STEPS} right points, {options.threads} thread(s)")
    print(
        f"hook loop {statistics.median(loop):8.2f} s\nours      {statistics.median(own):8.2f} s ({min(own):.2f} to {max(own):.2f})"
    )
    print(f"{times:.0f} times faster (goal {GOAL}: {'reached' if times >= GOAL else 'MISSED'}), "
          f"largest difference {difference(found, expected):.1e} of the largest score, "
          f"{abs(own_changes[0] - changes).max() / abs(own_changes[0]).max():.1e} of the largest layer's change")  # fmt: skip


if __name__ == "__main__":
    main()
