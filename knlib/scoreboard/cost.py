"""What an edit costs in numbers: weights that differ, values that are kept beside them, tokens put before a question."""

from functools import singledispatch

from ..editing.cached_change import CachedChange
from ..editing.changes import WeightChange
from ..editing.codebook_change import CodebookChange
from ..editing.in_context import PromptChange
from ..errors import InputError, Literal


@singledispatch
def touched(change) -> int:
    """How many numbers the edited model has that the unedited one has not; of a change in the prompt: its characters.

    A change of another type registers its own count: `touched.register(MyChange)(lambda change: ...)`.

    Example
    -------
    >>> touched(find_change("rome", model, requests, layer=1, texts=texts))
    147456
    """
    raise InputError("touched", found=Literal(type(change).__name__), expected="a registered type of change")


@touched.register
def _(change: WeightChange) -> int:
    rows = dict.fromkeys(sorted({part.layer for part in change.parts}))
    for layer in rows:
        own = [part for part in change.parts if part.layer == layer]
        neurons = sum((part.keys != 0).any(1).long() for part in own) > 0
        rows[layer] = int(neurons.sum()) * len(own[0].outputs)
    return sum(rows.values())


@touched.register
def _(change: CachedChange) -> int:
    kept = [neurons for entry in change.entries for own in entry.values.values() for neurons, _ in own.values()]
    keys = [found for entry in change.entries for found in entry.keys.values()]
    probe = change.probe
    gate = [] if probe is None else [probe.weights, probe.bias, probe.words[probe.words != 0]]
    return sum(map(len, kept)) + sum(tensor.numel() for tensor in (*keys, *gate))


@touched.register
def _(change: CodebookChange) -> int:
    return change.keys.numel() + change.values.numel() + change.radii.numel()


@touched.register
def _(change: PromptChange) -> int:
    return sum(len(text) for text in change.facts.values()) + sum(map(len, sum(change.demonstrations.values(), ())))
