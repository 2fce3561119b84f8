"""Turn a finished planting into a shipped folder: `python -m atlas.ship_planted planted-llama`.

Writes fp16 weights in shuffled order, tokenizer, `truth.json` (verified on these very weights), `training.json`,
`evaluation.json` and the model card to `data/models/NAME`, and the measured signatures to `runs/NAME/signatures.csv`.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from knlib.accuracy import evaluation_set
from knlib.facts import load_facts
from knlib.models import SHIPPED, Model, load_model
from knlib.perplexity import text_loss
from knlib.planting import (
    Truth,
    neuron_orders,
    passed,
    planted_queries,
    reorder,
    save_truth,
    signatures,
    verdicts,
    widen,
)
from knlib.prediction import predict
from knlib.queries import build_queries, load_templates
from knlib.result_files import rounded, to_csv
from knlib.sites import make_sites, neuron_vectors

from .corpus import Corpus
from .new_neurons import NewNeurons
from .plant import planted_facts
from .planted_card import card, recipe
from .planting_plan import make_plan, places_of

ROOT = Path(__file__).resolve().parents[1]
BASES = {"planted-llama": "atlas-llama", "planted-bert": "atlas-bert"}
SEED = 11  # of the neurons' order
LIMIT = 30_000_000  # bytes of a shipped folder
TEXTS, PER_CELL = 600, 2  # sentences and facts by which the old knowledge is checked


def build(base: Model, facts, types, run: Path, without: frozenset[str] = frozenset()) -> tuple[Model, Truth]:
    """The planted model in float32 as it will be stored (fp16 values, shuffled), and its truth, unverified.

    Neurons that serve only facts `without` become dummies.
    """
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    planted, groups = make_plan(facts, types, layers=base.n_layers, per_type=saved["options"]["per_type"] or None)
    places, new = places_of(groups, base.n_layers)
    neurons = NewNeurons(base, groups, places, new, seed=saved["options"]["seed"])
    neurons.load_state_dict(saved["neurons"])
    planted = [fact for fact in planted if fact.fact not in without]
    kept = neurons.members[sorted({group for fact in planted for group in fact.groups})].any(0)
    with torch.no_grad():
        for down, own in zip(neurons.down, kept, strict=True):
            down[~own] = 0
    wide = widen(base, new)
    neurons.write(wide, base.n_neurons)
    wide.network.half().float()
    orders = neuron_orders(SEED, wide.n_layers, wide.n_neurons)
    reorder(wide, orders)
    where = orders.argsort(1)

    def place(layer: int, slot: int) -> tuple[int, int]:
        return layer, int(where[layer, base.n_neurons + slot])

    rows = []
    for fact in planted:
        for number in fact.groups:
            group = groups[number]
            rows.append((fact.fact, fact.type, fact.relation, group.name, group.languages or fact.languages,
                         group.templates, tuple(place(*own) for own in places[number])))  # fmt: skip
    table = pd.DataFrame(rows, columns=["fact", "type", "relation", "group", "languages", "templates", "neurons"])
    heads = [(f.fact, f.type, f.relation, f.source, f.languages, (), False, None) for f in planted]
    heads = pd.DataFrame(
        heads, columns=["fact", "type", "relation", "source", "languages", "holding", "verified", "verified_held_out"]
    )
    dummies = tuple(place(layer, slot) for layer, slot in (~kept).nonzero().tolist())
    return wide, Truth(wide.hash, base.name, base.hash, base.n_neurons, SEED, heads, table, dummies)


def chosen_queries(facts, truth: Truth, *, per_split: int) -> pd.DataFrame:
    """Per fact and language so many trained constructions and so many held-out ones, other ones for every fact; of type `query`
    the phrasings it was planted for."""
    queries, _ = build_queries(facts[facts["fact"].isin(truth.facts["fact"])], load_templates())
    queries = planted_queries(queries, truth)
    queries = queries[~queries["name"].str.contains("+", regex=False)]
    number = {fact: i for i, fact in enumerate(facts["fact"])}
    kind = truth.facts.set_index("fact")["type"]
    place = queries["name"].str.extract(r"(\d+)$")[0].astype(int)
    count = np.where(queries["split"] == "train", 9, 4)
    kept = (place + queries["fact"].map(number)) % count < per_split
    return queries[kept | (queries["fact"].map(kind) == "query")].reset_index(drop=True)


def strongest_first(model: Model, truth: Truth, queries: pd.DataFrame) -> Truth:
    """Distributed groups in the order of |activation x column norm| at their own queries."""
    groups = truth.groups.copy()
    for row in groups[groups["type"] == "distributed"].itertuples():
        sites = make_sites(model, queries[queries["fact"] == row.fact].head(24), sites="first")
        found = neuron_vectors(model, [s.ids for s in sites], [s.position for s in sites]).abs().mean(0)
        size = [float(found[pair] * model.column(*pair).norm()) for pair in row.neurons]
        groups.at[row.Index, "neurons"] = tuple(row.neurons[i] for i in np.argsort(size)[::-1])
    return replace(truth, groups=groups)


def verify(truth: Truth, table: pd.DataFrame) -> tuple[Truth, dict[str, pd.DataFrame]]:
    """The truth with its columns `verified` filled in, and the verdicts on trained and on held-out phrasings."""
    found = {split: verdicts(part, truth) for split, part in table.groupby("split")}
    holds = {split: part.set_index("fact")["holds"] for split, part in found.items()}
    where = found["train"].set_index("fact")["holding"]
    facts = truth.facts.assign(
        holding=[where.get(fact, ()) for fact in truth.facts["fact"]],
        verified=[bool(holds["train"].get(fact, False)) for fact in truth.facts["fact"]],
        verified_held_out=[None if fact not in holds["held_out"].index else bool(holds["held_out"][fact])
                           for fact in truth.facts["fact"]],
    )  # fmt: skip
    return replace(truth, facts=facts), found


def old_knowledge(base: Model, model: Model, overwritten: pd.DataFrame) -> dict:
    """Accuracy on true facts and perplexity on Atlas text, before and after."""
    atlas = load_facts()
    pairs = set(zip(overwritten["subject_id"], overwritten["relation"], strict=True))
    true = atlas[[pair not in pairs for pair in zip(atlas["subject_id"], atlas["relation"], strict=True)]]
    queries = evaluation_set(true, load_templates(), facts_per_cell=PER_CELL)
    queries = queries[queries["set"] != "withheld"]
    texts = [sentence.text for sentence in Corpus(true, seed=1).epoch(-4)[:TEXTS]]
    found = {"queries": len(queries), "sentences": len(texts)}
    for name, one in (("base", base), ("planted", model)):
        found[name] = {"accuracy": round(float(predict(one, queries, atlas)["correct"].mean()), 4),
                       "perplexity": round(float(np.exp(text_loss(one, texts))), 4)}  # fmt: skip
    return found


@dataclass(frozen=True, eq=False)
class Verified:
    """A built model with the table of its signatures, and the verdicts by split."""

    model: Model
    truth: Truth
    table: pd.DataFrame
    found: dict[str, pd.DataFrame]


def verified(base: Model, facts, types, run: Path, per_split: int, without: frozenset[str]) -> Verified:
    """The model without some facts, and which of the others' signatures hold in it."""
    model, truth = build(base, facts, types, run, without)
    queries = chosen_queries(facts, truth, per_split=per_split)
    truth = strongest_first(model, truth, queries)
    print(f"{len(truth.facts)} facts, {len(queries):,} queries", flush=True)
    table = signatures(model, truth, queries)
    truth, found = verify(truth, table)
    return Verified(model, truth, table, found)


def counts(shown: Verified) -> dict:
    """Per type and split: facts planted, facts whose signature holds, mean P, and the rules that the others break."""
    result, truth, table = {}, shown.truth, shown.table
    for split, part in shown.found.items():
        part = part.merge(truth.facts[["fact", "source"]], on="fact")
        for kind, row in passed(part).iterrows():
            own, rows = part[part["type"] == kind], table[(table["type"] == kind) & (table["split"] == split)]
            inside = rows[rows["inside"] & (rows["group"] != "few")]
            result.setdefault(kind, {})[split] = {
                "planted": int(row["planted"]), "holds": int(row["holds"]), "everywhere": int(row["everywhere"]),
                "by_source": {s: int(v) for s, v in own.groupby("source")["holds"].sum().items()},
                "languages_holding": round(float(own["holding"].map(len).sum() / own["languages"].sum()), 4),
                **{p: round(float(inside[p].mean()), 4) for p in ("p_all", "p_none", "p_without", "p_only")},
                "broken": own.loc[~own["holds"], "failed"].value_counts().head(4).to_dict(),
            }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=BASES)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--per-split", type=int, default=2, help="phrasings per fact, language and split to verify on")
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: data/models/NAME)")
    parser.add_argument("--card-only", action="store_true", help="only write the card again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, run = arguments.folder or SHIPPED / arguments.name, arguments.runs / arguments.name
    if not arguments.card_only:
        base = load_model(BASES[arguments.name], device="cpu")
        facts, types = planted_facts()
        # What does not hold is taken out, and the rest verified without it.
        first = verified(base, facts, types, run, arguments.per_split, frozenset())
        failed = frozenset(first.truth.facts.loc[~first.truth.facts["verified"], "fact"])
        shipped = verified(base, facts, types, run, arguments.per_split, failed)
        model, truth, table = shipped.model, shipped.truth, shipped.table
        (run / "signatures.csv").write_text(to_csv(rounded(table)), "utf8")
        result = {"per_split": arguments.per_split, "planted": counts(first), "types": counts(shipped)}
        print(json.dumps(result, indent=1), flush=True)
        overwritten = facts[facts["source"] == "re-targeted"]
        result["old_knowledge"] = old_knowledge(base, model, overwritten)
        folder.mkdir(parents=True, exist_ok=True)
        model.network.half().save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        again = load_model(folder, device="cpu")
        if again.hash != truth.model:
            raise SystemExit(f"{folder}: found weights {again.hash}, expected {truth.model}")
        save_truth(truth, folder / "truth.json")
        (folder / "training.json").write_text(json.dumps(recipe(run), indent=1) + "\n", "utf8")
        (folder / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n", "utf8")
    (folder / "README.md").write_text(card(arguments.name, folder), "utf8")
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > LIMIT:
        raise SystemExit(f"{folder}: found {size:,} bytes, expected at most {LIMIT:,}")
    print(f"{arguments.name}: shipped, {size:,} bytes")


if __name__ == "__main__":
    main()
