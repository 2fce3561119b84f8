"""Edits that are kept beside the model and come in when a prompt asks for them: entries, and the gate that lets them act."""

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import torch

from ..models import Model
from ..prediction import AnswerRows
from ..shared_prefix import positions_argument
from ..sites import padded, uncached
from .relation_probe import RelationProbe

SHARED = "*"  # values of an entry that serve all languages


@dataclass(frozen=True, eq=False)
class Entry:
    """One cached edit. `fact`: what it is about (a newer entry of a fact supersedes it); `created`: its number in the sequence.

    `relation`: what it answers; `names`: language -> the subject's names; `keys`: language -> unit hidden states of its
    prompts, [prompts, width]; `values`: language (or `*`) -> layer -> (neurons, what is added to them where the subject ends).
    """

    edit: str
    fact: str
    relation: str
    created: int
    names: dict[str, tuple[str, ...]]
    keys: dict[str, torch.Tensor]
    values: dict[str, dict[int, tuple[list[int], torch.Tensor]]]

    def values_in(self, language: str) -> dict:
        return self.values.get(language, self.values.get(SHARED, {}))


@dataclass(frozen=True)
class Hit:
    """An entry that acts in a row of a batch, at a column, as asked in a language; `score`: what passed the threshold."""

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


def wording(model: Model, prompt: str, name: str) -> str:
    """What a probe of words reads of a prompt: `plain` text as the model's tokens spell it, without a name.

    Example
    -------
    >>> wording(model, "The capital of Côte d'Ivoire is", "Côte d'Ivoire")
    'the capital of   is'
    """
    return _text(model, model.pieces(prompt)).replace(plain(name), " ")


@lru_cache(maxsize=20_000)  # the same prompts are asked again behind other changes
def _text(model: Model, tokens: tuple[int, ...]) -> str:
    return plain(model.tokenizer.decode(tokens, skip_special_tokens=True))


def _is_accent(character: str) -> bool:
    # By combining class: from 200 on marks above and below, 27 to 35 Arabic vowels. Below are those that make another letter
    # (nukta, virama, the voicing of kana).
    place = unicodedata.combining(character)
    return place >= 200 or 27 <= place <= 35


class Gate:
    """Which entries act on which rows of a batch.

    A row is decided at one column: the first asked one by which an edited subject has been named, or the row's last token
    where nobody says what is asked. An entry needs one of its subject's names up to there (in any language; a longer name
    that is there as well rules a shorter one out). A name alone says nothing about what is asked of the subject: with `semantic`,
    the hidden state behind `layer` at that column must reach the threshold of its language (that of the entry's nearest
    key) in the `probe`'s margin of the entry's relation, which reads the words as well; without a probe, in the cosine to a key of
    this language.
    """

    def __init__(
        self, model: Model, entries: Iterable[Entry], layer: int, thresholds: dict[str, float], *,
        probe: RelationProbe | None = None, semantic: bool = True,
    ):  # fmt: skip
        newest: dict[str, int] = {}
        self.model, self.entries, self.layer = model, list(entries), layer
        self.thresholds, self.probe, self.semantic = thresholds, probe, semantic
        for number in sorted(range(len(self.entries)), key=lambda i: self.entries[i].created):
            newest[self.entries[number].fact] = number
        self.owners: dict[str, list[int]] = {}
        for number in newest.values():
            for name in {plain(name) for names in self.entries[number].names.values() for name in names}:
                self.owners.setdefault(name, []).append(number)

    def hits(self, ids: torch.Tensor, mask: torch.Tensor, asked, run) -> list[Hit]:
        """At most one hit a row. `asked`: (rows, columns) or None, as `Model.asked`; `run()` gives the unedited hidden states
        behind `layer`, [rows, columns, width]."""
        found = [
            (row, *named)
            for row, places in enumerate(_places(mask, asked))
            for named in self.named(ids[row], mask[row], places)
        ]
        if not found:
            return []
        if not self.semantic:
            best = {
                row: Hit(row, column, entry, next(iter(self.entries[entry].names)), 1.0)
                for row, column, _, entry, _ in found
            }
            return list(best.values())
        states = run()
        hits: dict[int, tuple[float, Hit]] = {}
        for row, column, place, entry, words in found:
            for language, score in self._scores(entry, states[row, place], words).items():
                excess = score - self.thresholds[language]
                if excess >= 0 and (row not in hits or excess > hits[row][0]):
                    hits[row] = (excess, Hit(row, column, entry, language, score))
        return [hit for _, hit in hits.values()]

    def named(self, ids: torch.Tensor, mask: torch.Tensor, places: Sequence[int]) -> list[tuple[int, int, int, str]]:
        """(column of the subject's last token, column that decides, entry, `wording`) of all entries with the longest name in a row.

        `places`: the asked columns, ascending.
        """
        columns = mask.nonzero()[:, 0].tolist()
        tokens = tuple(ids[columns].tolist())

        def text(length: int) -> str:
            return _text(self.model, tokens[:length])

        def names(place: int) -> list[str]:
            found = text(bisect_right(columns, place))
            return [name for name in self.owners if name in found]

        if not places or not names(places[-1]):
            return []
        place = places[bisect_left(places, True, key=lambda place: bool(names(place)))]
        name, end = max(names(place), key=len), bisect_right(columns, place)
        wanted = text(end).count(name)  # the last mention counts: so many tokens hold all of them
        length = bisect_left(range(end), wanted, key=lambda length: text(length).count(name))
        words = text(end).replace(name, " ")
        return [(columns[length - 1], place, entry, words) for entry in self.owners[name]]

    def _scores(self, entry: int, state: torch.Tensor, words: str) -> dict[str, float]:
        """Language -> what its threshold is compared with."""
        own = self.entries[entry]
        unit = torch.nn.functional.normalize(state.float(), dim=-1)
        cosines = {code: float((keys.to(unit) @ unit).max()) for code, keys in own.keys.items()}
        if self.probe is None:
            return cosines
        return {max(cosines, key=cosines.get): float(self.probe.margin(state[None], [words], own.relation))}


def _places(mask: torch.Tensor, asked) -> list[list[int]]:
    """Of every row the asked columns, ascending; its last token where nobody says."""
    if asked is None:
        return [row.nonzero()[-1:, 0].tolist() for row in mask]
    places: list[set[int]] = [set() for _ in mask]
    for row, column in zip(*(torch.as_tensor(part).tolist() for part in asked), strict=True):
        places[row].add(column)
    return [sorted(own) for own in places]


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
        raise _Reached  # what is above the layer is not asked for

    with model.hooks((model.layers[layer], keep)), suppress(_Reached):
        # Not a call of the module: hooks on the whole model are for who called it.
        model.base.forward(input_ids=ids, attention_mask=mask, **uncached(model), **positions_argument(model, mask))
    return seen[0]


class _Reached(Exception):
    """Leaves a forward pass."""


def end_states(model: Model, prompts: Sequence[str], layer: int, *, batch: int = 64) -> torch.Tensor:
    """What a layer gives at the prompts' last tokens, [prompts, width], on the CPU.

    Example
    -------
    >>> end_states(model, requests["prompt"], 4).shape
    torch.Size([12, 192])
    """
    helper, found = AnswerRows(model), []
    sequences = [(*helper.before, *model.pieces(prompt)) for prompt in prompts]
    for start in range(0, len(sequences), batch):
        ids, mask = padded(sequences[start : start + batch], model.tokenizer.pad_token_id, "right", model.device)
        states = hidden_states(model, layer, ids, mask)
        found.append(states[torch.arange(len(ids)), mask.sum(1).cpu() - 1].cpu())
    return torch.cat(found)
