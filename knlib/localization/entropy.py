"""How sure a model is of an answer: the entropy of its probabilities over all objects of the relation."""

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..facts import candidates
from ..models import Model
from ..next_token import NextToken
from ..prediction import answer_tokens, candidate_tokens

# A candidate this much (natural logarithm) less probable than the best by now is not followed to its last token: its
# share of the entropy is below a hundred-thousandth. On Atlas the entropy then errs by less than 0.001.
FAR = np.log(1e-5)
# With one candidate: the entropy over this many of the most probable first tokens.
TOP = 50


def with_entropy(
    model: Model, queries: pd.DataFrame, facts: pd.DataFrame, *, chunk: int = 256, progress: bool = False
) -> pd.DataFrame:
    """The queries with two more columns: `entropy` of the model's answer, and `n_sites`, the tokens of the right one.

    Entropy over the C objects of the relation in the query's language, from the candidates' probabilities (products over
    their tokens) made to sum to 1, divided by log C: 0 is certain, 1 is a guess. Where C is 1, over the 50 most
    probable first tokens.

    Example
    -------
    >>> with_entropy(model, queries, facts)[["query", "entropy", "n_sites"]]
    """
    keys = set(zip(queries["relation"], queries["language"], strict=True))
    names = {key: tuple(candidates(facts, *key)) for key in keys}
    found = []
    with tqdm(total=len(queries), unit="query", disable=not progress, desc=model.name) as bar:
        for start in range(0, len(queries), chunk):
            part = list(queries.iloc[start : start + chunk].itertuples())
            found += _entropies(model, part, names)
            bar.update(len(part))
    sites = [len(answer_tokens(model, r.prompt, r.space, r.answer)) for r in queries.itertuples()]
    return queries.assign(entropy=np.array(found, dtype=float), n_sites=np.array(sites, dtype=int))


def _entropies(model: Model, rows: list, names: dict) -> list[float]:
    after, masked = NextToken(model, rows), model.kind == "masked"
    tokens = [candidate_tokens(model, r.prompt, r.space, names[r.relation, r.language]) for r in rows]
    scores = [np.zeros(len(each)) for each in tokens]
    alone: dict[int, np.ndarray] = {}
    for depth in range(max((len(t) for each in tokens for t in each), default=0)):
        # What is shown (and, in a masked model, how many masks follow) -> the candidates that wait for the next token.
        steps: dict[tuple, list[int]] = {}
        for i, each in enumerate(tokens):
            best = scores[i].max()
            for j, candidate in enumerate(each):
                if depth < len(candidate) and scores[i][j] >= best + FAR:
                    masks = len(candidate) - depth if masked else 1
                    steps.setdefault((i, candidate[:depth], masks), []).append(j)
        asked = list(steps)

        def use(number, log_p, asked=asked, steps=steps, depth=depth):
            i = asked[number][0]
            for j in steps[asked[number]]:
                scores[i][j] += log_p[tokens[i][j][depth]]
            if len(tokens[i]) == 1 and depth == 0:
                alone[i] = np.sort(log_p)[-TOP:]

        after.ask(asked, use)
    return [_normalized_entropy(alone.get(i, each)) for i, each in enumerate(scores)]


def _normalized_entropy(log_p: np.ndarray) -> float:
    """Entropy of probabilities given by logarithms, over its largest possible value.

    Example
    -------
    >>> _normalized_entropy(np.log([0.2, 0.2]))
    1.0
    """
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    return float(-(p * np.log(np.maximum(p, 1e-300))).sum() / np.log(len(p)))
