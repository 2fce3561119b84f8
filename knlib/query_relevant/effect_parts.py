"""What a scoreboard of letters keeps of the effects of its localizers' neurons, part by part."""

from pathlib import Path

import pandas as pd

from ..files import atomically, write_text
from ..result_files import config_hash, to_csv
from . import score_parts
from .letter_effects import DOSES, FACTORS, letter_effects
from .long_form import answer_effects
from .predictors import predictor_table
from .questions import KEY
from .score_parts import REFERENCE, Plan, facts_tried, neuron_path, reference_sizes
from .study import ROUND, LetterStudy
from .trials import trials


def run_effects(plan: Plan, names: list[str], facts: list[str]) -> None:
    """Effects on letters and on answers' texts of some facts' neurons, for all localizers that lack them, in one pass."""
    study = plan.study
    missing = [name for name in names if not effect_path(plan, "answers", name, facts).exists()]
    mine = {name: [f for f in facts if f in set(facts_tried(plan, name))] for name in missing}
    for some in sorted({tuple(own) for own in mine.values()}, key=len, reverse=True):
        # Localizers of the same facts share the passes of every prompt.
        own = [name for name in missing if tuple(mine[name]) == some]
        letters, answers = _effects(plan, study, own, list(some))
        for name in own:
            # The texts last: they say that the part is complete.
            for kind, table in (("letters", letters), ("answers", answers)):
                kept = table[table["condition"] == name].assign(condition=name) if len(table) else table
                atomically(effect_path(plan, kind, name, facts), kept.reset_index(drop=True).to_parquet)


def effect_path(plan: Plan, kind: str, name: str, facts: list[str]) -> Path:
    return plan.folder / kind / name / f"{config_hash({'facts': facts})}.parquet"


def _effects(plan: Plan, study: LetterStudy, names: list[str], facts: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    if not facts:
        return pd.DataFrame(), pd.DataFrame()
    dosed = set(study.facts[: score_parts.DOSED])
    letters, answers = [], []
    for split in study.splits:
        own = study.tried_in(split, facts)
        if not own:
            continue
        neurons = _conditions(plan, names, split.held_out, own)
        known = reference_sizes(plan, split.held_out, study.of(split.localize, own))
        # Without neurons there is nothing to change, by any localizer: such questions are counted, not averaged.
        asked = known[known["size"] > 0]
        texts = study.answers[study.answers["query"].isin(split.test["fact"] + "|" + split.test["wording"])]
        for factors, some in ((DOSES, asked["fact"].isin(dosed)), (FACTORS, ~asked["fact"].isin(dosed))):
            if not some.any():
                continue
            tried = trials(split, asked[some])
            letters.append(letter_effects(study.model, study.prompts, tried, neurons, factors=factors))
            own_texts = texts.merge(asked.loc[some, KEY], on=KEY)
            answers.append(answer_effects(study.model, own_texts, neurons).assign(held_out=split.held_out))
    if not letters:
        return pd.DataFrame(), pd.DataFrame()
    return tuple(_with_draws(pd.concat(tables, ignore_index=True)) for tables in (letters, answers))


def _conditions(plan: Plan, names: list[str], held_out: int, facts: list[str]) -> pd.DataFrame:
    """The neurons of some facts, a condition for each localizer and draw, whether or not it has any."""
    tables, conditions = [], []
    for name in names:
        table = pd.read_parquet(neuron_path(plan, name))
        conditions += [f"{name}#{draw}" for draw in sorted(table["draw"].unique())]
        table = table[(table["held_out"] == held_out) & table["fact"].isin(facts)]
        tables.append(table.assign(condition=name + "#" + table["draw"].astype(str)))
    found = pd.concat(tables, ignore_index=True)
    return found.assign(condition=pd.Categorical(found["condition"], categories=conditions))


def _with_draws(effects: pd.DataFrame) -> pd.DataFrame:
    parts = effects["condition"].str.split("#")
    return effects.assign(condition=parts.str[0], draw=parts.str[1].astype(int))


def run_predictors(plan: Plan) -> None:
    """The three predictors, with the reference's neurons of some facts of every relation, on others.

    Of at most `ROUND` facts: those that the first split tries, or every other of a relation where it tries all.
    """
    path = plan.folder / "predictors.csv"
    if path.exists():
        return
    study, split = plan.study, plan.study.splits[0]
    facts = study.facts[:ROUND]
    relation = study.prompts.drop_duplicates("fact").set_index("fact")["relation"].loc[facts]
    located = set(study.tried_in(split, facts))
    if len(located) == len(facts):
        located = set(relation.index[relation.groupby(relation).cumcount() % 2 == 0])
    neurons = pd.read_parquet(neuron_path(plan, REFERENCE))
    neurons = neurons[(neurons["held_out"] == split.held_out) & neurons["fact"].isin(located)]
    new = study.of(split.test, set(facts) - located).reset_index(drop=True)
    table = predictor_table(study.model, new, neurons.assign(relation=neurons["fact"].map(relation)), study.answers)
    write_text(path, to_csv(table))
