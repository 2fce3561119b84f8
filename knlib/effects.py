"""What scaling neurons does to answers, beside what it does with control neurons."""

import numpy as np
import pandas as pd

from .controls import CONTROLS, Pairs, activation_matched, generator, layer_matched, neuron_pairs, random_neurons
from .edited_rows import EditedRow, edited_scores
from .errors import InputError, Literal
from .facts import candidates
from .models import Model
from .prediction import AnswerRows, answer_tokens
from .sites import neuron_vectors

POSITIONS = ("answer", "all", "subject")


def effects(
    model: Model,
    queries: pd.DataFrame,
    neurons: pd.DataFrame,
    *,
    factor: float = 0.0,
    controls: tuple[str, ...] = ("random", "layer_matched"),
    positions: str = "answer",
    seed: int = 0,
    match: tuple[str, ...] | None = None,
    facts: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """What scaling a fact's neurons does to the answers of its queries, beside what control neurons do.

    A query's neurons are the rows of `neurons` (columns `layer`, `neuron`) equal to it in the columns `match` (default:
    those of `fact`, `language` that the table has; `("fact",)` for neurons of all languages). `controls`: `random`,
    `layer_matched`, `activation_matched`, `other_fact` (the neurons of another fact of the relation). `positions`:
    where to scale: `answer` (the positions that predict its tokens), `subject`, `all`.

    Returns one row per query and condition (`neurons` and each control): `query`, `condition`, `n` (neurons scaled),
    `p_before`, `p_after`, `log_p_before`, `log_p_after` (the answer's, over the full vocabulary, product over its
    tokens) and, where `facts` are given, `rank_before`, `rank_after` among the relation's candidates (1: best).

    Raises `InputError` for unknown names, for `other_fact` where there is none, for subjects not in the prompt.

    Example
    -------
    >>> table = effects(model, queries, neurons, factor=0.0, controls=("layer_matched",))
    >>> table.groupby("condition")[["p_before", "p_after"]].mean()
    """
    for name, given, allowed in (("controls", controls, CONTROLS), ("positions", [positions], POSITIONS)):
        for value in given:
            if value not in allowed:
                raise InputError(name, found=value, expected=Literal("one of " + " ".join(allowed)))
    sets = _condition_sets(model, queries, neurons, controls, seed, match)
    rows = list(queries.itertuples())
    scored: list[tuple[int, str, Pairs]] = []
    for number, conditions in enumerate(sets):
        scored += [(number, "before", ()), *((number, name, pairs) for name, pairs in conditions.items())]
    names = None
    if facts is not None:
        names = {
            key: candidates(facts, *key) for key in set(zip(queries["relation"], queries["language"], strict=True))
        }
    scores, ranks = _scores(model, rows, scored, names, factor, positions)
    found, before = [], {}
    for (number, condition, pairs), score, rank in zip(scored, scores, ranks, strict=True):
        if condition == "before":
            before[number] = (score, rank)
            continue
        first, first_rank = before[number]
        entry = {"query": rows[number].query, "condition": condition, "n": len(pairs), "p_before": np.exp(first),
                 "p_after": np.exp(score), "log_p_before": first, "log_p_after": score}  # fmt: skip
        found.append(entry if names is None else entry | {"rank_before": first_rank, "rank_after": rank})
    return pd.DataFrame(found)


def _condition_sets(model, queries, neurons, controls, seed, match) -> list[dict[str, Pairs]]:
    if match is None:
        match = tuple(c for c in ("fact", "language") if c in neurons)
    if not match or not set(match) <= set(neurons) or not set(match) <= set(queries):
        raise InputError("neurons", found=list(neurons), expected="a table with fact (and language), layer, neuron")
    groups = {key: neuron_pairs(model, group) for key, group in neurons.groupby(list(match), sort=False)}
    relation = dict(zip(queries["fact"], queries["relation"], strict=True)) if "relation" in queries else {}
    sets = []
    for row in queries.itertuples():
        pairs = groups.get(tuple(getattr(row, c) for c in match), ())
        found = {"neurons": pairs}
        for control in controls:
            draw = generator(seed, row.query, control)
            if control == "random":
                found[control] = random_neurons(pairs, model.n_layers, model.n_neurons, draw)
            elif control == "layer_matched":
                found[control] = layer_matched(pairs, model.n_neurons, draw)
            elif control == "activation_matched":
                found[control] = activation_matched(pairs, _activations(model, row), draw)
            else:
                found[control] = _other_fact(row, groups, match, relation, draw)
        sets.append(found)
    return sets


def _activations(model: Model, row) -> np.ndarray:
    """[layers, neurons] where the answer's first token is predicted."""
    helper = AnswerRows(model)
    tokens = answer_tokens(model, row.prompt, row.space, row.answer)
    ids = helper.row(row.prompt, (), len(tokens), row.space, row.suffix)
    return neuron_vectors(model, [tuple(ids)], [helper.positions(row.prompt, 1)[0]])[0].cpu().numpy()


def _other_fact(row, groups: dict, match: tuple, relation: dict, draw: np.random.Generator) -> Pairs:
    fact = match.index("fact") if "fact" in match else None
    others = [] if fact is None else [
        key for key, pairs in groups.items()
        if pairs and key[fact] != row.fact and relation.get(key[fact]) == row.relation
        and all(key[i] == getattr(row, c) for i, c in enumerate(match) if i != fact)
    ]  # fmt: skip
    if not others:
        raise InputError("controls", found="other_fact",
                         expected=f"neurons of another fact of relation {row.relation} in the table")  # fmt: skip
    return groups[others[int(draw.integers(len(others)))]]


def _scores(model, rows, scored, names, factor, positions) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of the answer, and its rank among the candidates, in each (row number, condition, neurons)."""
    helper, asked, owners = AnswerRows(model), [], []
    for item, (number, _, pairs) in enumerate(scored):
        row = rows[number]
        others = () if names is None else [n for n in names[row.relation, row.language] if n != row.answer]
        for option, text in enumerate((row.answer, *others)):
            tokens = answer_tokens(model, row.prompt, row.space, text)
            places = list(helper.positions(row.prompt, len(tokens)))
            # A causal row holds all sites; a masked model needs one for each.
            sites = [range(len(tokens))] if model.kind == "causal" else [[i] for i in range(len(tokens))]
            for own in sites:
                shown = tokens[: max(own)] if model.kind == "masked" else tokens[:-1]
                ids = helper.row(row.prompt, shown, len(tokens) - len(shown), row.space, row.suffix)
                columns = [places[i] for i in own]
                edited = _columns(model, helper, row, positions, columns)
                asked.append(EditedRow(ids, columns, [tokens[i] for i in own], pairs, edited))
                owners.append((item, option))
    totals: dict[tuple[int, int], float] = {}
    for owner, score in zip(owners, edited_scores(model, asked, factor), strict=True):
        totals[owner] = totals.get(owner, 0.0) + float(score)
    scores, better = np.array([totals[item, 0] for item in range(len(scored))]), np.ones(len(scored), int)
    for (item, option), total in totals.items():
        better[item] += option > 0 and total > scores[item]
    return scores, better


def _columns(model: Model, helper: AnswerRows, row, positions: str, answer: list[int]) -> tuple[int, ...] | None:
    if positions == "all":
        return None
    return tuple(answer) if positions == "answer" else subject_columns(model, helper, row.prompt, row.subject)


def subject_columns(model: Model, helper: AnswerRows, prompt: str, subject: str) -> tuple[int, ...]:
    """Columns of the tokens that overlap the subject's last mention in the prompt."""
    start = prompt.rfind(subject)
    if start < 0 or not subject:
        raise InputError("subject", found=subject, expected="a part of the prompt")
    offsets = model.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    first = len(helper.before)
    return tuple(first + i for i, (a, b) in enumerate(offsets) if a < start + len(subject) and b > start and b > a)
