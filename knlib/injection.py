"""Teach a model new facts by training only chosen neurons: does what was learnt in one language reach the others?

"One Mind, Many Tongues" (Cao et al., arXiv 2411.17401) names this use of language-agnostic knowledge neurons; its protocol is
not public, this one is ours.
"""

import copy

import numpy as np
import pandas as pd
import torch

from .controls import neuron_pairs
from .errors import InputError, Literal
from .models import Model, prepared
from .prediction import answer_rows, answer_tokens
from .sites import padded
from .uses import answers, before_after, check_disjoint, required, spelled_alike, with_controls

GROUPS = {
    "new": "new facts,\nsame language",
    "transfer": "new facts,\nother languages",
    "same_string": "other languages,\nsame spelling",
    "retention": "old facts",
}


def injection_groups(
    train: pd.DataFrame, located: pd.DataFrame, held_out: pd.DataFrame, retained: pd.DataFrame
) -> pd.DataFrame:
    """The queries that training is judged by, in four groups (`GROUPS`).

    `train`: queries of the new facts in one language, with `new` (`knlib.counterfactuals.with_new_objects`); `located`: the
    queries that the neurons were found with; `held_out`: queries of the new facts in all languages in other phrasings, with
    `new`; `retained`: queries of facts that are not trained. Returns query rows with `group`, `owner` (the fact asked) and
    `new`: the wanted answer, for retained facts the one they have. Answers spelled as in the training text, old or new, are a
    group of their own.

    Raises `InputError` for several training languages, templates that locate or train and test, facts both new and
    retained.

    Example
    -------
    >>> groups = injection_groups(train, located, held_out, retained)
    """
    required("train", train, ("fact", "language", "template", "prompt", "space", "answer", "new", "suffix"))
    required("held_out", held_out, ("fact", "language", "template", "answer", "new"))
    languages = list(train["language"].unique())
    if len(languages) > 1:
        raise InputError("train", found=Literal("languages " + " ".join(languages)), expected="one language")
    check_disjoint(pd.concat([train, located]), pd.concat([held_out, retained]))
    both = set(train["fact"]) & set(retained["fact"])
    if both:
        raise InputError("retained", found=min(both), expected="facts that are not trained")
    own = held_out[held_out["fact"].isin(train["fact"])]
    alike = spelled_alike(own, train.drop_duplicates("fact"))
    home = (own["language"] == languages[0]).to_numpy()
    own = own.assign(owner=own["fact"], group=np.select([home, alike], ["new", "same_string"], "transfer"))
    kept = retained.assign(owner=retained["fact"], group="retention", new=retained["answer"])
    return pd.concat([own, kept], ignore_index=True)


def injection(
    model: Model,
    train: pd.DataFrame,
    groups: pd.DataFrame,
    arms: dict[str, pd.DataFrame],
    facts: pd.DataFrame,
    *,
    steps: int = 40,
    lr: float = 3e-2,
    lr_all: float = 1e-3,
    until: float = 0.1,
    weight_decay: float = 0.01,
    draws: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """What training a copy of the model on the new facts does, for several choices of what may change.

    `train`, `groups`: of `injection_groups`; `arms`: name -> neurons (`layer`, `neuron`), such as the most frequent of
    `knlib.localization.relation_neurons` (a new fact has no neurons of its own). Each has `draws` controls, as many other
    neurons of the same layers. Two arms without a control come on top: `all FFN` (every neuron) and `full` (every parameter).
    `steps`, `until`, `weight_decay`: as in `trained_copy`; `lr` for the neurons, `lr_all` for the two large arms, where every
    entry has to move less. All stop at one loss, so that arms are compared where they know the training text equally well;
    the defaults suit the Atlas models. See in `loss` whether an arm got there.

    Returns one row per (arm, condition, draw, query): `parameters` trained, `n` (neurons), the training `loss` at the end in
    nats; `success` (the answer is the wanted one), `right`, `p_new`, `p_answer`, each `_before` and `_after`; `unchanged`; `score`:
    `success_after`; `gain`: the change of success per 1,000 trained parameters.

    Example
    -------
    >>> found = injection(model, train, groups, {"LAKN": lakn, "KN source": kn}, facts)
    >>> use_summary(found, ["arm", "group"])[["estimate", "low", "high", "control"]]
    """
    required("groups", groups, ("owner", "group", "query", "answer", "new"))
    for arm, table in arms.items():
        required(f"arm {arm}", table, ("layer", "neuron"))
    groups = groups.reset_index(drop=True)
    before = answers(model, groups, facts)
    conditions = [
        (arm, *choice) for arm, table in arms.items()
        for choice in with_controls(model, neuron_pairs(model, table), draws, seed, arm)
    ]  # fmt: skip
    every = tuple((layer, neuron) for layer in range(model.n_layers) for neuron in range(model.n_neurons))
    conditions += [("all FFN", "neurons", 0, every), ("full", "neurons", 0, None)]
    parts = []
    for arm, condition, draw, pairs in conditions:
        entries = {n: torch.ones_like(p, dtype=torch.bool) for n, p in model.network.named_parameters()}
        if pairs is not None:
            entries = model.neuron_entries(pairs)
        rate = lr if arm in arms else lr_all
        trained, losses = trained_copy(
            model, train, entries, steps=steps, lr=rate, until=until, weight_decay=weight_decay
        )
        rows = before_after(groups, before, answers(trained, groups, facts))
        size = sum(int(mask.sum()) for mask in entries.values())
        parts.append(rows.assign(arm=arm, condition=condition, draw=draw, parameters=size, loss=losses[-1],
                                 n=len(every if pairs is None else pairs)))  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    table["score"] = table["success_after"].astype(float)
    table["gain"] = 1000 * (table["score"] - table["success_before"]) / table["parameters"]
    return table


def trained_copy(
    model: Model,
    train: pd.DataFrame,
    entries: dict[str, torch.Tensor],
    *,
    steps: int,
    lr: float,
    until: float = 0.0,
    weight_decay: float = 0.01,
) -> tuple[Model, list[float]]:
    """A copy of the model after AdamW steps on -log P(new answer) in which only some entries of the parameters changed.

    `train`: queries with `new`, all in every step; `entries`: parameter name -> mask of what is trained, as
    `Model.neuron_entries` gives. All else is bit for bit as in the model: gradients are masked, and what weight decay did to
    frozen entries is taken back. Stops before `steps` where the loss is below `until`. Returns the copy and the loss (mean
    over queries, nats per answer) before every step and at the end.

    Raises `InputError` for no entries, names that the model lacks and numbers that are not positive.

    Example
    -------
    >>> trained, losses = trained_copy(model, train, model.neuron_entries(pairs), steps=10, lr=3e-3)
    """
    for name, value in (("steps", steps), ("lr", lr)):
        if not value > 0:
            raise InputError(name, found=value, expected="a positive number")
    trained = prepared(model.name, copy.deepcopy(model.network), model.tokenizer, model.kind)
    parameters = dict(trained.network.named_parameters())
    unknown = [name for name in entries if name not in parameters]
    if unknown or not any(mask.any() for mask in entries.values()):
        raise InputError("entries", found=unknown[0] if unknown else Literal("nothing to train"),
                         expected="masks of the model's parameters")  # fmt: skip
    chosen = [
        (parameters[name].requires_grad_(), mask, parameters[name].detach().clone()) for name, mask in entries.items()
    ]
    loss, losses = _loss(trained, train), []
    optimizer = torch.optim.AdamW([p for p, _, _ in chosen], lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        losses.append(value.item())
        if losses[-1] < until:
            break
        value.backward()
        for parameter, mask, _ in chosen:
            if parameter.grad is not None:  # a pooler, say, has no part in the answer
                parameter.grad.mul_(mask)
        optimizer.step()
        with torch.no_grad():
            for parameter, mask, kept in chosen:
                parameter.copy_(torch.where(mask, parameter, kept))
    else:
        with torch.no_grad():
            losses.append(loss().item())
    trained.network.requires_grad_(False)
    return trained, losses


def _loss(model: Model, train: pd.DataFrame):
    """A function that gives the mean of -log P(new answer) over the queries, all in one batch."""
    items = [(r.prompt, answer_tokens(model, r.prompt, r.space, r.new), r.space, r.suffix) for r in train.itertuples()]
    ids, columns, targets, _ = answer_rows(model, items)
    table, attention = padded(ids, model.tokenizer.pad_token_id, "right", model.device)
    where = [(row, column) for row, own in enumerate(columns) for column in own]
    rows, places = torch.tensor(where, device=model.device).T
    wanted = torch.tensor([token for own in targets for token in own], device=model.device)

    def loss():
        logits = model.logits_at(table, attention, rows, places).float()
        return torch.nn.functional.cross_entropy(logits, wanted, reduction="sum") / len(train)

    return loss
