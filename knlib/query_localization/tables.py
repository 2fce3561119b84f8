"""Results of many cells as tables for figures and for reading: one row per model and whatever is compared.

`results`: cell id -> result, as `run_grid` gives them; `slots`: slot -> model name. A cell without a result has no rows.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from ..errors import InputError, Literal
from .cells import CELLS, SLOTS
from .consistency import LABELLING
from .edit_summary import LABELS
from .intervals import Draws
from .results import Result
from .split import circular_welch
from .thresholds import STATIC, bimodality, inconsistent, otsu
from .verdicts import HYPOTHESES, judge, needed_cells

Results = Mapping[str, Result]
Slots = Mapping[str, str]
ENDS = ("estimate", "low", "high")

# What the public record of the paper (arXiv 2405.14117) says for each hypothesis. Its tables are not public: all numbers come
# from public reviews of the submission, at second hand.
EVIDENCE = {
    "H1": "LLaMA3-8B: 77 % of facts inconsistent under three methods at once (second hand); Welch p < 1e-6 (second hand)",
    "H2": "stated; no number public",
    "H3": "own set matters most, neighbours' less, intersection least (second hand); no number public",
    "H4": "another query's synapses act significantly less (second hand); no number public",
    "H5": "on average +8 % and +9 % over two baselines (second hand)",
}


def slots_for(models: str) -> dict[str, str]:
    """The slots of models named in one text: the shipped ones stay in theirs, others take what is free, in order.

    Raises `InputError` for no name, a name twice and more than three.

    Example
    -------
    >>> slots_for("atlas-bert,some/model")
    {'G': 'some/model', 'B': 'atlas-bert'}
    """
    names = [name.strip() for name in models.split(",") if name.strip()]
    if not 1 <= len(names) <= len(SLOTS) or len(set(names)) < len(names):
        raise InputError("MODELS", found=models, expected=Literal("one to three different names with commas between"))
    home = {name: slot for slot, name in SLOTS.items()}
    taken = {home[name]: name for name in names if name in home}
    free = iter(slot for slot in SLOTS if slot not in taken)
    taken |= {next(free): name for name in names if name not in home}
    return {slot: taken[slot] for slot in SLOTS if slot in taken}


def find(results: Results, slot: str, experiment: str, **options) -> Result | None:
    """A model's result of an experiment with these options, None where it was not run.

    Example
    -------
    >>> find(results, "G", "mapping", factor=0.0).summary["queries"]
    """
    for cell in CELLS.values():
        if (cell.slot, cell.experiment, cell.options) == (slot, experiment, options):
            return results.get(cell.id)
    return None


def _each(results: Results, slots: Slots, experiment: str, variants: Sequence[dict]):
    for slot, model in slots.items():
        for options in variants:
            if (result := find(results, slot, experiment, **options)) is not None:
                yield model, options, result


METHODS = [{"method": name} for name in ("ig", "sig", "amig")]
FACTORS = [{"factor": 0.0}, {"factor": 2.0}]
EDITS = [{"edit": "erase"}, {"edit": "update"}]


def scores(results: Results, slots: Slots) -> pd.DataFrame:
    """The rows of all consistency cells with a column `model`; part `all` only."""
    parts = [r.rows.assign(model=model) for model, _, r in _each(results, slots, "consistency", METHODS)]
    table = pd.concat(parts, ignore_index=True)
    return table[table["part"] == "all"]


def shares(table: pd.DataFrame, thresholds: Sequence[float], *, value: str = "cs_2_k4") -> pd.DataFrame:
    """The share of inconsistent facts by `model`, `method`, `mode` and `threshold`, with 95 % intervals, and `all three`:
    inconsistent under all methods at once (mode `ours`, facts that all of them score).

    `table`: of `scores`; sets above a share of the query's largest score.

    Example
    -------
    >>> shares(scores(results, slots), [0.3]).set_index(["model", "method"])["estimate"]
    """
    table, rows = table[table["set"] == "threshold"], []
    for model, own in table.groupby("model", sort=False):
        draws = _draws(own)
        groups = {(method, mode): part.set_index("fact")[value] for (method, mode), part in own.groupby(["method", "mode"], sort=False)}  # fmt: skip
        together = pd.DataFrame({m: v for (m, mode), v in groups.items() if mode == "ours"}).dropna()
        if together.shape[1] == len(METHODS):
            # Below a threshold under all methods is: the largest score is below it.
            groups["all three", "ours"] = together.max(axis=1)
        for (method, mode), values in groups.items():
            for threshold in thresholds:
                found = draws.mean(inconsistent(values, threshold), values.index)
                rows.append({"model": model, "method": method, "mode": mode, "threshold": threshold} | found)
    return pd.DataFrame(rows)


def _draws(table: pd.DataFrame) -> Draws:
    return Draws(dict(zip(table["fact"], table["relation"], strict=True)))


def share_table(table: pd.DataFrame, threshold: float = STATIC) -> pd.DataFrame:
    """Per cent of inconsistent facts, models and methods x thresholds: below a static one of CS_2 at four queries, below
    Otsu's (with its verdict on two modes), and with J* below a half; mode `ours`."""
    static = shares(table, [threshold])
    static = static[static["mode"] == "ours"].set_index(["model", "method"])
    found = pd.DataFrame({f"static {threshold:g}": static.apply(percent, axis=1)})
    own = table[table["mode"] == "ours"]
    for (model, method), part in own.groupby(["model", "method"], sort=False):
        key, values = (model, method), part.loc[part["set"] == "threshold", "cs_2_k4"].dropna()
        best = otsu(values)
        if best is not None:
            found.loc[key, "Otsu at"] = f"{best:.2f}"
            found.loc[key, "below Otsu"] = f"{100 * (values < best).mean():.0f}"
            modes = bimodality(values).bimodal if len(values) >= 4 else False
            found.loc[key, "two modes"] = "yes" if modes else "no"
        top = part[part["set"] == "top10"].set_index("fact")["j_star"]
        found.loc[key, "J* < .5"] = percent(_draws(part).mean(inconsistent(top, 0.5), top.index))
    return found.fillna("")


def overlap_table(table: pd.DataFrame, name: str = "top10") -> pd.DataFrame:
    """J between its ends, models x methods, means over facts: random neurons, other facts, the fact, its retests, J*."""
    own = table[(table["set"] == name) & (table["mode"] == "ours")]
    columns = {"j_random": "random", "j_null": "J_null", "jaccard": "J", "j_ceil": "J_ceil", "j_star": "J*"}
    return own.groupby(["model", "method"], sort=False)[list(columns)].mean().rename(columns=columns)


def mapping_effects(results: Results, slots: Slots, measure: str = "d_log_p") -> pd.DataFrame:
    """Effects of neuron sets on the answer: `model`, `factor`, `label`, `set`, and an estimate with its interval."""
    rows = []
    for model, options, result in _each(results, slots, "mapping", FACTORS):
        for label in LABELS:
            for name, found in result.summary["effects"].get(label, {}).items():
                rows.append({"model": model, **options, "label": label, "set": name} | found[measure])
    return pd.DataFrame(rows)


def synapse_values(results: Results, slots: Slots, measure: str = "d_size") -> pd.DataFrame:
    """How large neurons are after a change of attention (mode `norm`, plain), relative to before: `model`, `factor`, `set` of
    columns, `neurons` (`members`, `matched`), an estimate with its interval."""
    rows = []
    variants = [options | {"read": "value"} for options in FACTORS]
    for model, options, result in _each(results, slots, "synapse_effects", variants):
        for found in _main(result, options["factor"]):
            for neurons, column in (("members", measure), ("matched", f"{measure}_matched")):
                ends = {end: None if found[column][end] is None else 1 + found[column][end] for end in ENDS}
                head = {"model": model, "factor": options["factor"], "set": found["set"], "n": found["n"]}
                rows.append(head | {"neurons": neurons} | ends)
    return pd.DataFrame(rows)


def _main(result: Result, factor: float | None = None) -> list[dict]:
    """Conditions of mode `norm` at the cell's main alpha (the first of that mode), plain."""
    own = [row for row in result.summary["effects"] if (row["mode"], row["operator"]) == ("norm", "plain")]
    alpha = own[0]["alpha"] if own else None
    return [row for row in own if row["alpha"] == alpha and factor in (None, row["factor"])]


def doses(results: Results, slots: Slots) -> pd.DataFrame:
    """Change of log P by the factor on synapses and on others of equal mass: `model`, `set`, `factor`, estimate, interval."""
    variants, rows = [{"factor": 2.0, "read": "answer"}], []
    for model, _, result in _each(results, slots, "synapse_effects", variants):
        for found in _main(result):
            if found["set"] in ("self", "mass_matched"):
                rows.append({"model": model, "set": found["set"], "factor": found["factor"]} | found["d_log_p"])
    table = pd.DataFrame(rows, columns=["model", "set", "factor", *ENDS, "facts"])
    return table.sort_values(["model", "set", "factor"], kind="stable", ignore_index=True)


def mediation(results: Results, slots: Slots) -> pd.DataFrame:
    """Share of the synapses' effect on log P that goes through neurons: `model`, `neurons`, an estimate with its interval."""
    variants, rows = [{"factor": 0.0, "read": "answer"}], []
    for model, _, result in _each(results, slots, "synapse_effects", variants):
        found = result.summary["mediation"]
        rows += [{"model": model, "neurons": name} | found[name] for name in ("members", "matched", "share")]
    return pd.DataFrame(rows, columns=["model", "neurons", *ENDS, "facts"])


def edits(results: Results, slots: Slots) -> pd.DataFrame:
    """Editing by strategy and budget: `model`, `edit`, `strategy`, `times` (of a query's typical number of neurons), `n`, and means
    of the metrics; `less_self_low` and `less_self_high`: interval of the average less that of `self`, equal budget."""
    rows = []
    for model, options, result in _each(results, slots, "cas_editing", EDITS):
        for strategy, budgets in result.summary["main"].items():
            for times, found in budgets.items():
                row = {"model": model, **options, "strategy": strategy, "times": float(times), "n": found["n"]}
                for name in ("reliability", "generality", "locality", "avg", "dppl"):
                    row[name] = found[name]["estimate"]
                less = found["less"].get("self", {}).get("avg", {})
                rows.append(row | {f"less_self_{end}": less.get(end) for end in ("low", "high")})
    return pd.DataFrame(rows)


def edit_table(table: pd.DataFrame, model: str, times: float = 1.0) -> pd.DataFrame:
    """One model's strategies at one budget (and those without), erasure beside update; shares in per cent."""
    own = table[(table["model"] == model) & table["times"].isin([times, 0.0])]
    wide = own.set_index(["strategy", "edit"])[["reliability", "generality", "locality", "avg"]] * 100
    wide = wide.rename(columns={"reliability": "rel", "generality": "gen", "locality": "loc"}).unstack("edit")
    order = list(dict.fromkeys(own["strategy"]))
    return wide.swaplevel(axis=1).sort_index(axis=1, level=0, sort_remaining=False).loc[order].astype(float)


def welch_table(results: Results, slots: Slots) -> pd.DataFrame:
    """Welch's t of CS_2 between consistent and inconsistent facts, by model: labels from other phrasings (`split-half`), and
    labels made from the same CS_2 (`circular`), with as many facts on each side."""
    rows = []
    for model, _, result in _each(results, slots, "consistency", METHODS[:1]):
        found, labels = result.summary["welch"], result.summary["labels"]
        mode, name = LABELLING
        own = result.rows[(result.rows["mode"] == mode) & (result.rows["set"] == name) & (result.rows["part"] == "all")]
        values = own["cs_2"].dropna().sort_values().to_numpy()
        below = min(labels[LABELS[1]], len(values) - 1)
        row = {"model": model, "circular": circular_welch(values, values[below]).t, "split-half": found["t"]}
        rows.append(row | {name: labels[name] for name in (*LABELS, "undefined", "kappa")})
    return pd.DataFrame(rows).set_index("model").astype(float)


def hypothesis_table() -> pd.DataFrame:
    """The hypotheses as they were fixed: `claim`, what makes it `supported when`, and what would undo it."""
    rows = {}
    for h in HYPOTHESES:
        parts = [
            " or ".join(f"{reading.text}: interval {reading.side} {reading.bound:g}" for reading in part)
            for part in h.parts
        ]
        rows[h.id] = {"claim": h.claim, "supported when": "; and ".join(parts), "fails when": h.fails_when}
    return pd.DataFrame.from_dict(rows, orient="index")


def verdicts(results: Results, slots: Slots) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`judge` for every model whose cells are there: `(verdicts, readings)` with a column `model` in front."""
    found = []
    for slot, model in slots.items():
        if all(cell.id in results for cell in needed_cells(slot)):
            found.append([table.assign(model=model) for table in judge(results, slot)])
    if not found:
        raise InputError("results", found=Literal("no model with all cells"), expected="the cells of needed_cells")
    return tuple(pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True))


def verdict_table(verdicts: pd.DataFrame, readings: pd.DataFrame) -> pd.DataFrame:
    """Claim, the paper's evidence, ours with intervals, verdict: index (hypothesis, model)."""
    rows = {}
    for _, verdict in verdicts.iterrows():
        own = readings[(readings["hypothesis"] == verdict["hypothesis"]) & (readings["model"] == verdict["model"])]
        ours = "; ".join(f"{interval(row)} ({row['predicted']}: {row['holds']})" for _, row in own.iterrows())
        rows[verdict["hypothesis"], verdict["model"]] = {
            "claim": verdict["claim"], "paper": EVIDENCE[verdict["hypothesis"].split()[0]], "ours": ours,
            "verdict": verdict["verdict"],
        }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["hypothesis", "model"])
    return table.sort_index(level=0, sort_remaining=False, kind="stable")


def status(results: Results, slots: Slots, stored: Sequence[str]) -> pd.DataFrame:
    """One row per cell: what it is, the model, its facts, whether it is in `stored` or was run now, the configuration's hash."""
    rows = {}
    for name, cell in CELLS.items():
        if name in results:
            found = results[name]
            options = " ".join(f"{key}={value}" for key, value in cell.options.items())
            rows[name] = {
                "model": slots[cell.slot], "experiment": cell.experiment, "options": options,
                "facts": int(found.rows["fact"].nunique()), "result": "stored" if name in stored else "run here",
                "hash": found.provenance["hash"],
            }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def interval(row, digits: int = 2) -> str:
    """`0.31 [0.20, 0.42]`, or `?` where there is none."""
    if any(row[end] is None or pd.isna(row[end]) for end in ENDS):
        return "?"
    numbers = [round(float(row[end]), digits) + 0.0 for end in ENDS]
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*numbers, d=digits)


def percent(row) -> str:
    """`31 [20, 42]`: a share and its interval, in per cent."""
    return interval({end: None if row[end] is None else 100 * row[end] for end in ENDS}, 0)


def modification_table(results: Results, slots: Slots) -> pd.DataFrame:
    """Edits of a query's own neurons and of all queries' neurons, by label: generality and locality in per cent with intervals,
    generality under the control, and the change of the perplexity in per cent; index (model, edit, label, set)."""
    rows = {}
    for model, options, result in _each(results, slots, "modification", EDITS):
        for label in LABELS:
            for name in ("self", "union"):
                found = result.summary["by_label"][label][name]
                own = found["neurons"]
                rows[model, options["edit"], label, name] = {
                    "generality": percent(own["generality"]), "control": percent(found["control"]["generality"]),
                    "locality": percent(own["locality"]), "perplexity": percent(own["dppl"]),
                }  # fmt: skip
    names = ["model", "edit", "label", "set"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["generality", "control", "locality", "perplexity"])
    table.index = pd.MultiIndex.from_tuples(rows, names=names)
    return table
