"""The questions of a scoreboard: facts that can be asked in all languages, in a seeded order, their prompts and trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from ..attribution import query_hash
from ..controls import generator
from ..errors import InputError
from ..facts import load_facts
from ..models import Model
from ..multiple_choice import LETTERS, build_multiple_choice, load_wordings
from ..result_files import config_hash
from .long_form import without_options
from .questions import KEY, Split, splits

WORDINGS = 3
# Facts that are computed and kept together, with all their languages.
CHUNK = 5
# From so many facts on, each is tried on one of its wordings, which goes round; fewer are tried on each wording in turn.
ROUND = 60


@dataclass(frozen=True, eq=False)
class LetterStudy:
    """`facts`: names, relations in turn; `prompts`: of all their questions, by fact, language, wording, rotation;
    `answers`: the same questions without options; `taught`: facts that the model was taught as multiple choice.
    """

    model: Model
    facts: list[str]
    prompts: pd.DataFrame
    answers: pd.DataFrame
    taught: frozenset[str]

    @cached_property
    def hash(self) -> str:
        texts = self.answers[["query", "prompt", "space", "answer"]].to_json(orient="split", force_ascii=False)
        return config_hash({"prompts": query_hash(self.prompts), "answers": texts, "facts": self.facts})

    @cached_property
    def scored(self) -> pd.DataFrame:
        """The prompts that some split localizes on, with `place`: the number of the wording among its question's."""
        place = self.prompts.groupby(KEY)["wording"].rank("dense").astype(int) - 1
        return self.prompts.assign(place=place)[place != self.prompts["fact"].map(self._turn)]

    @cached_property
    def wordings(self) -> pd.DataFrame:
        """One prompt row for each wording: what scores that are means over rotations belong to."""
        return self.scored[self.scored["rotation"] == 0].reset_index(drop=True)

    @cached_property
    def splits(self) -> list[Split]:
        return list(splits(self.prompts, wordings=WORDINGS))

    @cached_property
    def _turn(self) -> dict[str, int]:
        """The split that alone tries a fact; empty where every split tries all."""
        return {} if len(self.facts) < ROUND else {fact: i % WORDINGS for i, fact in enumerate(self.facts)}

    def tried_in(self, split: Split, facts: Sequence[str]) -> list[str]:
        """Of some facts those whose neurons a split tries."""
        return [fact for fact in facts if self._turn.get(fact, split.held_out) == split.held_out]

    def of(self, table: pd.DataFrame, facts: Sequence[str]) -> pd.DataFrame:
        return table[table["fact"].isin(set(facts))]


def chunks(facts: list[str]) -> list[list[str]]:
    return [facts[i : i + CHUNK] for i in range(0, len(facts), CHUNK)]


def load_study(model: Model, languages: Sequence[str], count: int, *, seed: int = 0) -> LetterStudy:
    """The Atlas questions of a scoreboard: `count` facts, each in all the languages.

    Only facts with all wordings and rotations in every language are taken, relations in turn, in an order drawn by `seed`:
    the first n facts are the same for every `count`.

    Raises `InputError` for unknown languages, more facts than there are.

    Example
    -------
    >>> study = load_study(load_model("atlas-llama"), ["en", "fr"], 10)
    >>> len(study.facts), len(study.prompts)
    (10, 240)
    """
    facts, wordings = load_facts(), load_wordings()
    unknown = set(languages) - set(wordings["language"])
    if unknown or not languages:
        raise InputError("languages", found=sorted(unknown), expected=" ".join(sorted(set(wordings["language"]))))
    wordings = wordings[wordings["language"].isin(languages)]
    prompts, _ = build_multiple_choice(facts, wordings)
    whole = prompts.groupby("fact").size() == len(set(languages)) * WORDINGS * len(LETTERS)
    order = _in_turns(facts[facts["fact"].isin(whole.index[whole])], seed)
    if not 1 <= count <= len(order):
        raise InputError("questions", found=count, expected=f"1 to {len(order)}: facts asked in all these languages")
    chosen = order[:count]
    prompts = prompts[prompts["fact"].isin(chosen)].sort_values([*KEY, "wording", "rotation"], ignore_index=True)
    taught = facts.loc[facts["fact"].isin(chosen) & facts["multiple_choice"], "fact"]
    return LetterStudy(model, chosen, prompts, without_options(prompts, wordings), frozenset(taught))


def _in_turns(facts: pd.DataFrame, seed: int) -> list[str]:
    """One fact of every relation, then a second of each, and so on."""
    ranks = []
    for relation, names in facts.groupby("relation")["fact"]:
        shuffled = generator(seed, relation).permutation(sorted(names))
        ranks += [(place, relation, str(name)) for place, name in enumerate(shuffled)]
    return [name for _, _, name in sorted(ranks)]
