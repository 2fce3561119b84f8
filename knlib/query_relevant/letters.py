"""The tokens with which a model may write a letter, and how likely each of four letters is.

After "Response:" a letter comes with a blank, after a full-width colon without. Which token that is depends on
tokenizer and prompt; a set of both makes languages comparable.
"""

import warnings
from functools import lru_cache

import numpy as np
import pandas as pd

from ..errors import InputError, Literal
from ..models import Model
from ..multiple_choice import LETTERS
from ..prediction import AnswerRows

Sets = tuple[tuple[int, ...], ...]
# A model that puts less than this on the four letters does not answer by letter.
LEAST_MASS = 0.5


@lru_cache(maxsize=2**14)  # nine texts are tokenized, and every score asks for them
def letter_sets(model: Model, prompt: str, *, legacy: bool = False) -> Sets:
    """The tokens that write A, B, C, D behind a prompt: a sorted tuple of ids for each.

    For every letter the first new tokens of prompt + "A" and of prompt + " A". A form that re-tokenizes the
    prompt is left out; so is a token that several letters share (a blank of its own). `legacy`: the bare token
    of the vocabulary, as the reference code of Chen et al. (2025, arXiv 2406.10868) takes it.

    Raises `InputError` for a letter without any token, an empty prompt.

    Example
    -------
    >>> model = load_model("atlas-gpt2")
    >>> [model.tokenizer.convert_ids_to_tokens(s) for s in letter_sets(model, "Answer:")]
    [['▁A', 'A'], ['▁B', 'B'], ['▁C', 'C'], ['▁D', 'D']]
    """
    if not prompt.strip():
        raise InputError("prompt", found=prompt, expected="text before the letter")
    found = _vocabulary_sets(model) if legacy else _sets_behind(model, prompt)
    shared = {t for i, a in enumerate(found) for b in found[i + 1 :] for t in a & b}
    sets = tuple(tuple(sorted(own - shared)) for own in found)
    for letter, own in zip(LETTERS, sets, strict=True):
        if not own:
            raise InputError(f"letter {letter} behind {prompt[-20:]!r}", found=Literal("no token of its own"),
                             expected=f"one in the vocabulary of {model.name}")  # fmt: skip
    return sets


def _vocabulary_sets(model: Model) -> list[set[int]]:
    ids = model.tokenizer.convert_tokens_to_ids(list(LETTERS))
    return [set() if i is None or i == model.tokenizer.unk_token_id else {i} for i in ids]


def _sets_behind(model: Model, prompt: str) -> list[set[int]]:
    forms = [space + letter for letter in LETTERS for space in ("", " ")]
    texts = [prompt, *(prompt + form for form in forms)]
    start, *whole = model.tokenizer(texts, add_special_tokens=False)["input_ids"]
    found: list[set[int]] = [set() for _ in LETTERS]
    for number, ids in enumerate(whole):
        if len(ids) > len(start) and ids[: len(start)] == start:
            found[number // 2].add(ids[len(start)])
    unknown = model.tokenizer.unk_token_id
    return [own - {unknown} for own in found]


def with_letter_sets(model: Model, prompts: pd.DataFrame, *, legacy: bool = False) -> pd.DataFrame:
    """The prompts with a column `token_sets`: of the right letter first, then of the other three.

    `prompts`: columns `query`, `prompt`, `answer` (a letter), as `build_multiple_choice` makes them. Adds `suffix` and
    `space`, which `attribute` asks for, where they are missing. Raises `InputError` as `letter_sets`, naming the query.

    Example
    -------
    >>> with_letter_sets(model, prompts)["token_sets"].iloc[0]
    ((36, 97), (37, 98), (38, 99), (39, 100))
    """
    ordered = []
    for row, sets in zip(prompts.itertuples(), _all_sets(model, prompts, legacy), strict=True):
        gold = LETTERS.index(row.answer)
        ordered.append((sets[gold], *(own for i, own in enumerate(sets) if i != gold)))
    blank = {name: "" for name in ("space", "suffix") if name not in prompts}
    return prompts.assign(token_sets=pd.Series(ordered, index=prompts.index, dtype=object), **blank)


def _all_sets(model: Model, prompts: pd.DataFrame, legacy: bool) -> list[Sets]:
    for column in ("query", "prompt", "answer"):
        if column not in prompts:
            raise InputError("prompts", found=list(prompts), expected=f"a column {column}")
    found = []
    for row in prompts.itertuples():
        if row.answer not in LETTERS:
            raise InputError(f"query {row.query}, answer", found=row.answer, expected="one of A B C D")
        try:
            found.append(letter_sets(model, row.prompt, legacy=legacy))
        except InputError as error:
            raise InputError(
                f"query {row.query}", found=Literal(str(error)), expected="four letters to tell apart"
            ) from None
    return found


def letter_probabilities(model: Model, prompts: pd.DataFrame, *, legacy: bool = False) -> pd.DataFrame:
    """How likely each letter is as the next token of every prompt, each summed over its tokens.

    One row per prompt, in order: `query`; `A`, `B`, `C`, `D` (under the full vocabulary); `mass`, their sum;
    `probability`, of the right letter; `among_four`, the same given that it is one of the four; `prediction`;
    `correct`. Warns where the mass is below 0.5: what such a prompt's letters say is not the model's answer.

    Example
    -------
    >>> letter_probabilities(model, prompts)[["mass", "probability", "correct"]]
    """
    sets = _all_sets(model, prompts, legacy)
    helper, rows = AnswerRows(model), list(prompts.itertuples())
    masks = 1 if model.kind == "masked" else 0
    ids = [helper.row(row.prompt, (), masks, "", getattr(row, "suffix", "")) for row in rows]
    columns = [[helper.positions(row.prompt, 1)[0]] for row in rows]
    found = np.zeros((len(rows), len(LETTERS)))

    def use(i, log_probabilities):
        found[i] = [np.exp(log_probabilities[0, list(own)].astype(float)).sum() for own in sets[i]]

    helper.log_probabilities(ids, columns, use)
    gold = np.array([LETTERS.index(row.answer) for row in rows], dtype=int)
    table = pd.DataFrame(found, columns=list(LETTERS))
    table.insert(0, "query", prompts["query"].to_numpy())
    table["mass"] = found.sum(1)
    table["probability"] = found[np.arange(len(rows)), gold]
    table["among_four"] = table["probability"] / table["mass"]
    table["prediction"] = np.array(LETTERS)[found.argmax(1)]
    table["correct"] = found.argmax(1) == gold
    _warn(table)
    return table


def _warn(table: pd.DataFrame) -> None:
    low = table[table["mass"] < LEAST_MASS]
    if len(low):
        warnings.warn(f"{len(low)} of {len(table)} prompts: the four letters have less than {LEAST_MASS} of the "
                      f"probability, {low['mass'].min():.2g} for {low['query'].iloc[low['mass'].argmin()]}",
                      stacklevel=3)  # fmt: skip


def in_chat(model: Model, prompts: pd.DataFrame) -> pd.DataFrame:
    """The prompts as a user's message, in the model's chat template, up to where its reply begins.

    The marker that the tokenizer puts before every text is not written twice. Raises `InputError` for a tokenizer without a
    chat template.

    Example
    -------
    >>> letter_scores(model, in_chat(model, prompts))
    """
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"model {model.name}", found=Literal("a tokenizer without a chat template"), expected="one with it"
        )
    start = tokenizer.decode(model.specials[0]) if model.specials[0] else ""
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        for prompt in prompts["prompt"]
    ]
    return prompts.assign(prompt=[text.removeprefix(start) for text in texts])
