"""Edits that are kept beside the model and come in when a prompt asks for them: entries, and the gate that lets them act."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..models import Model
from ..sites import uncached

SHARED = "*"  # values of an entry that serve all languages


@dataclass(frozen=True, eq=False)
class Entry:
    """One cached edit. `fact`: what it is about (a newer entry of a fact supersedes it); `created`: its number in the sequence.

    `names`: language -> the subject's names; `keys`: language -> unit hidden states of its prompts, [prompts, width];
    `values`: language (or `*`) -> layer -> (neurons, what is added to them where the subject ends).
    """

    edit: str
    fact: str
    created: int
    names: dict[str, tuple[str, ...]]
    keys: dict[str, torch.Tensor]
    values: dict[str, dict[int, tuple[list[int], torch.Tensor]]]

    def values_in(self, language: str) -> dict:
        return self.values.get(language, self.values.get(SHARED, {}))


@dataclass(frozen=True)
class Hit:
    """An entry that acts in a row of a batch, at a column, as asked in a language; `score`: the cosine to its nearest key."""

    row: int
    column: int
    entry: int
    language: str
    score: float


def plain(text: str) -> str:
    """A text as names are compared: NFKC, casefolded, without accents and Arabic vowel signs.

    Example
    -------
    >>> plain("SÃO Tomé")
    'sao tome'
    """
    parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFC", "".join(c for c in parts if not _is_accent(c)))


def _is_accent(character: str) -> bool:
    # By combining class: from 200 on marks above and below, 27 to 35 Arabic vowels. Below are those that make another letter
    # (nukta, virama, the voicing of kana).
    place = unicodedata.combining(character)
    return place >= 200 or 27 <= place <= 35


class Gate:
    """Which entries act on which rows of a batch.

    An entry needs one of its subject's names in the row (in any language; a longer name that is there as well rules a shorter one
    out) and, with `semantic`, a hidden state behind `layer`, from the subject's end on, whose cosine to one of the
    entry's keys reaches the threshold of the key's language. A name alone says nothing about what is asked of the subject.
    """

    def __init__(
        self, model: Model, entries: Iterable[Entry], layer: int, thresholds: dict[str, float], *, semantic: bool = True
    ):
        newest: dict[str, int] = {}
        self.model, self.entries, self.layer = model, list(entries), layer
        self.thresholds, self.semantic = thresholds, semantic
        for number in sorted(range(len(self.entries)), key=lambda i: self.entries[i].created):
            newest[self.entries[number].fact] = number
        self.owners: dict[str, list[int]] = {}
        for number in newest.values():
            for name in {plain(name) for names in self.entries[number].names.values() for name in names}:
                self.owners.setdefault(name, []).append(number)

    def hits(self, ids: torch.Tensor, mask: torch.Tensor, run) -> list[Hit]:
        """At most one hit a row. `run()` gives the unedited hidden states behind `layer`, [rows, columns, width]."""
        found = [(row, *candidate) for row in range(len(ids)) for candidate in self._named(ids[row], mask[row])]
        if not found:
            return []
        if not self.semantic:
            best = {
                row: Hit(row, column, entry, next(iter(self.entries[entry].names)), 1.0) for row, column, entry in found
            }
            return list(best.values())
        states = run()
        hits: dict[int, tuple[float, Hit]] = {}
        for row, column, entry in found:
            for language, score in self._scores(entry, states[row], mask[row], column).items():
                margin = score - self.thresholds.get(language, 1.0)
                if margin >= 0 and (row not in hits or margin > hits[row][0]):
                    hits[row] = (margin, Hit(row, column, entry, language, score))
        return [hit for _, hit in hits.values()]

    def scores(self, ids: torch.Tensor, mask: torch.Tensor, run) -> list[dict[str, float]]:
        """Of every row the best score of a named entry by language of the key; empty where no name is there (calibration)."""
        found: list[dict[str, float]] = [{} for _ in range(len(ids))]
        states = run()
        for row in range(len(ids)):
            for column, entry in self._named(ids[row], mask[row]):
                for language, score in self._scores(entry, states[row], mask[row], column).items():
                    found[row][language] = max(score, found[row].get(language, -1.0))
        return found

    def _named(self, ids: torch.Tensor, mask: torch.Tensor) -> list[tuple[int, int]]:
        """(column of the subject's last token, entry) of all entries with the longest name in a row."""
        columns = mask.nonzero()[:, 0].tolist()
        tokens = ids[columns].tolist()
        text = plain(self.model.tokenizer.decode(tokens, skip_special_tokens=True))
        names = [name for name in self.owners if name in text]
        if not names:
            return []
        name = max(names, key=len)
        wanted, start, end = text.count(name), 0, len(tokens)
        while start < end:  # the first number of tokens that hold all mentions
            middle = (start + end) // 2
            if plain(self.model.tokenizer.decode(tokens[:middle], skip_special_tokens=True)).count(name) < wanted:
                start = middle + 1
            else:
                end = middle
        return [(columns[start - 1], entry) for entry in self.owners[name]]

    def _scores(self, entry: int, states: torch.Tensor, mask: torch.Tensor, column: int) -> dict[str, float]:
        after = mask.bool().clone()
        after[:column] = False
        unit = torch.nn.functional.normalize(states[after].float(), dim=-1)
        return {code: float((unit @ keys.to(unit).T).max()) for code, keys in self.entries[entry].keys.items()}


@torch.no_grad()
def hidden_states(model: Model, layer: int, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What a layer gives for a batch, [rows, columns, width].

    Example
    -------
    >>> hidden_states(model, 4, ids, mask).shape
    torch.Size([12, 9, 192])
    """
    seen = []

    def keep(module, inputs, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    with model.hooks((model.layers[layer], keep)):
        # Not a call of the module: hooks on the whole model are for who called it.
        model.base.forward(input_ids=ids, attention_mask=mask, **uncached(model))
    return seen[0]
