"""A tiny model with neurons that are declared to be planted, and its folder: what a scoreboard needs, without training."""

from pathlib import Path

import pandas as pd
import torch
from conftest import save_tiny

from knlib.facts import ATLAS, load_facts, read_jsonl
from knlib.models import Model, load_model
from knlib.planting import Truth, neuron_orders, reorder, save_truth, widen

ADDED = 32
# Of each kind so many facts, in these languages.
KINDS = {"agnostic": 2, "language": 1, "half": 1, "query": 2, "redundant": 1, "relation": 2, "distributed": 1}
LANGUAGES = ("en", "ru", "ja", "tr")
# Random models know nothing: every query counts.
GATES = {"min_gold_prob": 0.0}


def save_planted(kind: str, tokenizer, folder: Path, *, loud: float = 1.0) -> Path:
    """A folder with a tiny model of an architecture of `conftest.TINY`, widened, and `truth.json`; new neurons write with `loud`."""
    save_tiny(kind, tokenizer, folder)
    wide = widen(load_model(folder, device="cpu"), ADDED)
    old = wide.n_neurons - ADDED
    draw = torch.Generator().manual_seed(1)
    for name, mask in wide.neuron_entries([(la, old + i) for la in range(wide.n_layers) for i in range(ADDED)]).items():
        wide.network.get_parameter(name)[mask] = loud * torch.randn(int(mask.sum()), generator=draw) * 0.3
    orders = neuron_orders(2, wide.n_layers, wide.n_neurons)
    reorder(wide, orders)
    wide.network.save_pretrained(folder)
    where = orders.argsort(1)
    free = [
        (i % wide.n_layers, int(where[i % wide.n_layers, old + i // wide.n_layers]))
        for i in range(ADDED * wide.n_layers)
    ]
    save_truth(truth_of(load_model(folder, device="cpu"), free, old), folder / "truth.json")
    return folder


def truth_of(model: Model, free: list[tuple[int, int]], old: int) -> Truth:
    types = {row["fact"]: row["type"] for _, row in read_jsonl(ATLAS / "planted" / "facts.jsonl")}
    table, free, groups, facts, shared = load_facts(ATLAS / "planted"), iter(free), [], [], {}
    table = table[table["source"] == "invented"]

    def take(count=2):
        return tuple(next(free) for _ in range(count))

    for kind, count in KINDS.items():
        own = table[table["fact"].map(types) == kind]
        if kind == "relation":
            own = own[own["relation"] == own["relation"].iloc[0]]
        for row in own.head(count).itertuples():
            named = {
                "language": [(code, (code,), None) for code in LANGUAGES],
                "half": [("latin", ("en", "tr"), None), ("other", ("ru", "ja"), None)],
                "query": [(f"train{i}", LANGUAGES, (f"train{i}",)) for i in (0, 3, 6)],
                "redundant": [(name, LANGUAGES, None) for name in ("first", "second")],
            }.get(kind, [("all", LANGUAGES, None)])
            named = [(*group, take(8 if kind == "distributed" else 2)) for group in named]
            if kind == "relation":
                common = shared.setdefault(row.relation, take())
                named.append(("relation", LANGUAGES, None, common))
            groups += [(row.fact, kind, row.relation, *group) for group in named]
            facts.append((row.fact, kind, row.relation, "invented", LANGUAGES, LANGUAGES, True, None))
    return Truth(
        model.hash, "base", "0" * 16, old, 2,
        pd.DataFrame(facts, columns=["fact", "type", "relation", "source", "languages", "holding", "verified", "verified_held_out"]),
        pd.DataFrame(groups, columns=["fact", "type", "relation", "group", "languages", "templates", "neurons"]),
    )  # fmt: skip
