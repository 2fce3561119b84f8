"""A study of a few made-up questions for a tiny model: for tests of effects and of the scoreboard of letters."""

import pandas as pd
from tiny_models import tiny_model

from knlib.multiple_choice import LETTERS
from knlib.query_relevant.study import LetterStudy

FACTS = {"f0": ("r", "bada kilo"), "f1": ("s", "nu re"), "f2": ("r", "sipo ta"), "f3": ("s", "mira lenu")}
WORDS = {"en": ("do", "ga", "pe"), "de": ("ku", "lo", "mi")}
ANSWERS = {"f0": "tapi", "f1": "go", "f2": "lu", "f3": "fabe"}


def tiny_prompts(facts=FACTS, words=WORDS) -> pd.DataFrame:
    """Every fact in every language, three wordings and four rotations: 12 prompts a question."""
    rows = [
        (f"{fact}|{code}/{w}|{r}", fact, relation, code, f"{code}/{w}", r, f"{text} {tail} {'ba' * (r + 1)}",
         LETTERS[(int(fact[1:]) + w + r) % 4], ANSWERS.get(fact, "go"), ("go", "lu", "fabe", "tapi"))
        for fact, (relation, text) in facts.items() for code, tails in words.items()
        for w, tail in enumerate(tails) for r in range(4)
    ]  # fmt: skip
    columns = ["query", "fact", "relation", "language", "wording", "rotation", "prompt", "answer", "gold", "options"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        ["fact", "language", "wording", "rotation"], ignore_index=True
    )


def tiny_answers(prompts: pd.DataFrame) -> pd.DataFrame:
    table = prompts[prompts["rotation"] == 0].reset_index(drop=True)
    return table.assign(query=table["fact"] + "|" + table["wording"], prompt=table["prompt"].str[:-3], space=" ",
                        suffix="", answer=table["gold"]).drop(columns=["rotation", "gold", "options"])  # fmt: skip


def tiny_study(model=None) -> LetterStudy:
    prompts = tiny_prompts()
    return LetterStudy(
        model or tiny_model("llama"), list(FACTS), prompts, tiny_answers(prompts), frozenset(["f0", "f1"])
    )
