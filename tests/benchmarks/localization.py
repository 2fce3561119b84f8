"""Localizers on synthetic neurons: F1 at the defaults, thresholds swept, and the best threshold in hindsight.

    python tests/benchmarks/localization.py                 # 60 seeds
    python tests/benchmarks/localization.py --seeds 5

The generator is of the kind that the random-effects model assumes, and its constants are this project's: it shows what a
localizer does where its assumptions hold, not what it does on a model. Unless said otherwise, no language is gated and
neither the share of languages nor the number of neurons is limited, so that rows differ in the score alone.
"""

import argparse
import sys
from math import inf
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from synthetic_neurons import SETTINGS, average_precision, best_f1, f1, synthetic

from knlib.localization import LOCALIZERS, localize
from knlib.localization.gates import gather

BARE = {"rho": 0.0, "k_max": None}
# name in the table -> localizer, options
AT_DEFAULTS = {
    "kn_share": ("kn_share", {}),
    "kn_share, no floor": ("kn_share", {"floor": 0}),
    "amig": ("amig", {}),
    "mean": ("mean", {}),
    "cas": ("cas", {}),
    "min_lang": ("min_lang", {}),
    "re_lcb, only S >= t": ("re_lcb", BARE),
    "  c = 1": ("re_lcb", BARE | {"ablate": ("certainty",)}),
    "  c = 1, UQ = v0": ("re_lcb", BARE | {"ablate": ("certainty", "query")}),
    "  tau2 = 0": ("re_lcb", BARE | {"ablate": ("language",)}),
}
SWEPT = ("mean", "cas", "min_lang", "re_lcb, only S >= t")
THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)


def measure(seeds: int) -> pd.DataFrame:
    """Mean over seeds: one row per method, one column per setting and measure."""
    rows = []
    for setting_name, setting in SETTINGS.items():
        for seed in range(seeds):
            attributions, queries, truth = synthetic(setting, seed)
            add = _collector(rows, setting_name)
            for max_entropy, suffix in ((inf, ""), (0.8, " | gate")):
                fact = gather(attributions, queries, min_gold_prob=0, max_entropy=max_entropy)[0][0]
                for method, (name, options) in AT_DEFAULTS.items():
                    if not fact.languages:
                        add(method + suffix, "F1", 0.0)
                        continue
                    verdict = LOCALIZERS[name].find(fact, **options)
                    add(method + suffix, "F1", f1(verdict.found, truth))
                    add(method + suffix, "AP", average_precision(verdict.score, truth))
                    add(method + suffix, "best F1", best_f1(verdict.score, truth))
                    if method in SWEPT and not suffix:
                        for t in THRESHOLDS:
                            add(method, f"t {t:g}", f1(verdict.score >= t, truth))
            raw = attributions.scores.values[:, 0]
            add("mean of unscaled scores", "AP", average_precision(raw.mean(0), truth))
            table = localize("re_lcb", attributions, queries, resamples=0)
            found = np.zeros(len(truth), bool)
            found[table.loc[table["scope"] == "all", "neuron"]] = True
            add("re_lcb, full default", "F1", f1(found, truth))
    table = pd.DataFrame(rows, columns=["setting", "method", "measure", "value"])
    return table.groupby(["method", "measure", "setting"], sort=False)["value"].mean().unstack("setting")


def _collector(rows: list, setting: str):
    return lambda method, measure, value: rows.append((setting, method, measure, value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=60)
    found = measure(parser.parse_args().seeds)
    defaults = ", ".join(f"{n} {LOCALIZERS[n].options({})['t']:g}" for n in LOCALIZERS)
    for measure_name, title in (("F1", f"F1 at the default t ({defaults})"), ("AP", "Average precision"),
                                ("best F1", "F1 at the best threshold in hindsight")):  # fmt: skip
        print(f"\n{title}\n{found.xs(measure_name, level='measure').round(3).to_string()}")
    swept = found[found.index.get_level_values("measure").str.startswith("t ")]
    print(f"\nF1 by threshold t on the score\n{swept.round(3).to_string()}")


if __name__ == "__main__":
    main()
