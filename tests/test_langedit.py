"""LangEdit is AlphaEdit language by language, in a null space that each language before has made smaller."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from edit_requests import ENDS, REQUESTS, TEXTS, naive_moment, naive_states, same, weights
from tiny_models import KeepFloat64, tiny_model

from knlib.editing import ValueOptions, edit, find_change
from knlib.editing.langedit import count_tokens
from knlib.errors import InputError

EN = REQUESTS[REQUESTS["language"] == "en"]
LAYERS = [0, 1]


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def find(name, model, requests=REQUESTS, **options):
    given = {"layers": LAYERS, "texts": TEXTS, "ridge": 0.1, "value": ValueOptions(steps=5)} | options
    return find_change(name, model, requests, **given)


def same_parts(one, other):
    return len(one) == len(other) and all(
        (a.edit, a.layer) == (b.edit, b.layer) and a.outputs.equal(b.outputs) and a.keys.equal(b.keys)
        for a, b in zip(one, other, strict=True)
    )


def keys_of(model, language, layer):
    """[neurons, requests]."""
    rows = REQUESTS[REQUESTS["language"] == language]
    return torch.stack([naive_states(model, r.prompt, ENDS[r.edit][language], layer)[0] for r in rows.itertuples()]).T


def spanned(moment):
    """P of a second moment."""
    values, directions = torch.linalg.eigh(moment)
    least = directions[:, values.argsort()[: round(0.7 * len(values))]]
    return least @ least.T


def spaces(model, change, tokens):
    """P of both languages and layers, and the cache behind the second, by the formula and token by token."""
    english = replace(change, parts=change.parts[:4])
    found, caches = {}, {}
    for layer in LAYERS:
        moment = naive_moment(model, layer, 0.0)
        with english.applied(model):  # keys as they are after their edit
            keys = keys_of(model, "en", layer)
        caches[layer] = keys @ keys.T
        later = tokens / (tokens + 100) * moment + 100 / (tokens + 100) * caches[layer]
        for language, own in (("en", moment), ("ja", later)):
            found[language, layer] = spanned(own)
    return found, caches


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_first_language_is_alphaedits_bit_for_bit(kind):
    model = tiny_model(kind)
    alone = find("alphaedit", model, EN)
    change, one = find("langedit", model), find("langedit", model, EN)
    assert same_parts(one.parts, alone.parts) and same_parts(change.parts[:4], alone.parts) and len(change.parts) == 8
    assert one.report["values"] == alone.report["values"] and one.editor == "langedit"
    # One batch of both languages is another edit.
    assert not same_parts(change.parts[:4], find("alphaedit", model).parts)
    assert [(e["edit"], e["language"]) for e in change.report["values"]] == [
        ("A", "en"), ("B", "en"), ("A", "ja"), ("B", "ja")
    ]  # fmt: skip
    turned = find("langedit", model, REQUESTS[::-1])
    assert [(e["language"], e["layer"]) for e in turned.report["null_space"]] == [
        ("ja", 0), ("ja", 1), ("en", 0), ("en", 1)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("tokens", [None, 1000])
def test_nothing_is_written_outside_the_null_space_of_its_language(kind, tokens):
    model = tiny_model(kind)
    change = find("langedit", model, tokens=tokens)
    behind = sum(len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS)
    assert change.report["tokens"] == (tokens or behind) and count_tokens(model, TEXTS) == behind
    P, _ = spaces(model, change, tokens or behind)
    identity = torch.eye(model.n_neurons)
    for number, part in enumerate(change.parts):
        own = P["en" if number < 4 else "ja", part.layer]
        assert part.keys.norm() > 1e-3 and ((identity - own) @ part.keys).norm() < 1e-7 * part.keys.norm()
    # The second language's null space is another one than the texts'.
    later = [part for part in change.parts[4:] if part.layer == 0]
    assert all(((identity - P["en", 0]) @ part.keys).norm() > 1e-3 * part.keys.norm() for part in later)
    for entry in change.report["null_space"]:
        assert entry["rank"] == 17 and 0 <= entry["trace_share"] <= 1


def test_the_second_language_follows_the_formula():
    """D = R K^T P (cache P + K K^T P + l2 I)^-1 with the second P, in the lowest layer, whose keys no edit changes."""
    model = tiny_model("llama")
    change = find("langedit", model, tokens=50)
    P, caches = spaces(model, change, 50)
    P, cache, keys = P["ja", 0], caches[0], keys_of(model, "ja", 0)
    inverse = torch.linalg.inv(cache @ P + keys @ keys.T @ P + 0.1 * torch.eye(len(P)))
    for number, part in enumerate(part for part in change.parts[4:] if part.layer == 0):
        expected = part.outputs @ keys[:, [number]].T @ P @ inverse
        assert expected.norm() > 1e-3 and torch.allclose(part.outputs @ part.keys.T, expected, atol=1e-8)


def test_every_language_adds_all_keys_before_it_again():
    """C_2 = (N C_1 + 100 (K_0 K_0^T + K_1 K_1^T)) / (N + 200): from the third on, the divisors decide about P."""
    model, tokens = tiny_model("gpt2"), 50
    third = EN.assign(language="de", prompt="mira " + EN["subject"])
    change = find("langedit", model, pd.concat([REQUESTS, third]), tokens=tokens)
    moment, cache = naive_moment(model, 0, 0.0), 0
    for number, language in enumerate(("en", "ja"), 1):  # no edit changes the lowest layer's keys
        keys = keys_of(model, language, 0)
        cache = cache + keys @ keys.T
        moment = (tokens * moment + 100 * cache) / (tokens + 100 * number)
    P = spanned(moment)
    for part in (part for part in change.parts[8:] if part.layer == 0):
        assert part.keys.norm() > 1e-3 and (part.keys - P @ part.keys).norm() < 1e-7 * part.keys.norm()


def test_earlier_keys_are_better_kept_than_by_alphaedit():
    """What the second language writes at the first one's keys, per unit of what it writes at all."""
    model = tiny_model("gpt2")
    keys, shares = keys_of(model, "en", 0), []
    for tokens in (1, 10**9):
        parts = [part for part in find("langedit", model, tokens=tokens).parts[4:] if part.layer == 0]
        written = torch.cat([part.keys for part in parts], dim=1)
        shares.append(float((keys.T @ written).norm() / written.norm()))
    assert shares[0] < 0.2 * shares[1]


def test_the_cache_belongs_to_the_call_and_the_model_is_left_as_it_was():
    model = tiny_model("gpt2")
    before, first = weights(model), find("langedit", model)
    find("langedit", model, REQUESTS.tail(2))
    alpha = find("alphaedit", model, EN)
    assert same_parts(find("langedit", model).parts, first.parts) and same_parts(alpha.parts, first.parts[:4])
    assert same(model, before)
    options = {"layers": LAYERS, "texts": TEXTS, "value": ValueOptions(steps=2)}
    with pytest.raises(KeyError), edit("langedit", model, REQUESTS, **options) as edited:
        assert edited.edits == ["A", "B"] and not same(model, before)
        raise KeyError
    assert same(model, before)


def test_bad_input_is_named():
    model = tiny_model("gpt2")
    for options, message in (({"tokens": 0}, "tokens: found 0, expected a number of tokens"),
                             ({"rank_share": 1.5}, r"rank_share: found 1\.5"),
                             ({"layers": []}, r"layers: found \[\]")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            find("langedit", model, **options)
    with pytest.raises(InputError, match="found a masked model, expected a causal one"):
        find("langedit", tiny_model("bert"))
