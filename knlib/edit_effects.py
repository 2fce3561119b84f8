"""What an edit did: the answers of a model before and after it, and the scores of both.

Scores of a question: `tokens`, the share of the target's tokens that are the most probable next one behind those
before them; `forced`, whether all are; `log_p` of the target, `margin` log p(target) - log p(old); `generated`,
whether the greedy continuation is one of the accepted names (`knlib.edit_scores.exact_match`); for neighbours `same`,
whether the most probable tokens are those of the unedited model, and `kl`, KL(unedited || edited) of the first token.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .edit_questions import EDITED
from .edit_scores import exact_match
from .edit_set import LOCALITY
from .generation import generate
from .models import Model
from .prediction import AnswerRows, answer_rows, answer_tokens

SCORES = ("tokens", "forced", "log_p", "margin", "generated", "same", "kept", "kl")
MORE_TOKENS = 4  # generated beyond the target's


@dataclass(frozen=True, eq=False)
class Answers:
    """Of every question (by number): the most probable `tokens` where the target's are, `right` for each; `log_p` of the target
    and `old_log_p` of the old answer, [questions]; `first`: neighbours' log-probabilities [vocabulary] of the first token;
    `generated`: edited facts' continuations."""

    tokens: list[tuple[int, ...]]
    right: list[np.ndarray]
    log_p: np.ndarray
    old_log_p: np.ndarray
    first: dict[int, np.ndarray]
    generated: dict[int, str]


def ask(model: Model, questions: pd.DataFrame) -> Answers:
    """The model's answers as it is now, to questions with the columns of `edit_questions`.

    Ask an edited model `change.queries(questions)`. Raises `InputError` as `generate` and `answer_rows`.

    Example
    -------
    >>> before = ask(model, questions)
    >>> with change.applied(model):
    ...     after = ask(model, change.queries(questions))
    >>> effects(questions, before, after).groupby("kind")["forced"].mean()
    """
    table = list(questions.itertuples())
    items = [(r.prompt, answer_tokens(model, r.prompt, r.space, r.target), r.space, r.suffix) for r in table]
    old = [i for i, r in enumerate(table) if isinstance(r.old, str) and r.kind in EDITED]
    items += [(table[i].prompt, answer_tokens(model, table[i].prompt, table[i].space, table[i].old), table[i].space,
               table[i].suffix) for i in old]  # fmt: skip
    rows, columns, targets, owners = answer_rows(model, items)
    best: list[list[int]] = [[] for _ in items]
    score, first = np.zeros(len(items)), {}

    def use(i, found):
        owner = owners[i]
        score[owner] += found[np.arange(len(targets[i])), list(targets[i])].sum()
        best[owner] += found.argmax(-1).tolist()
        if owner < len(table) and table[owner].kind in LOCALITY and owner not in first:
            first[owner] = found[0]

    AnswerRows(model).log_probabilities(rows, columns, use)
    old_log_p = np.full(len(table), np.nan)
    old_log_p[old] = score[len(table) :]
    right = [np.array(best[i]) == np.array(items[i][1]) for i in range(len(table))]
    asked = [i for i, r in enumerate(table) if r.kind in EDITED]
    texts = generate(
        model, [table[i].prompt for i in asked], MORE_TOKENS + max((len(items[i][1]) for i in asked), default=0)
    )
    return Answers([tuple(tokens) for tokens in best[: len(table)]], right, score[: len(table)], old_log_p, first,
                   dict(zip(asked, texts, strict=True)))  # fmt: skip


def effects(questions: pd.DataFrame, before: Answers, after: Answers) -> pd.DataFrame:
    """One row per question: `edit`, `kind`, `language`, and the scores of the module (NaN where one does not apply).

    `kept`: of neighbours that the unedited model answered right, whether they still are.

    Example
    -------
    >>> effects(questions, before, before)["same"].mean()
    1.0
    """
    rows = []
    for i, question in enumerate(questions.itertuples()):
        right = after.right[i]
        row = {"edit": question.edit, "kind": question.kind, "language": question.language, "tokens": right.mean(),
               "forced": float(right.all()), "log_p": after.log_p[i], "margin": after.log_p[i] - after.old_log_p[i]}  # fmt: skip
        if i in after.generated:
            row["generated"] = float(says(after.generated[i], question.accepted, question.suffix))
        if i in after.first:
            row["same"] = float(after.tokens[i] == before.tokens[i])
            row["kept"] = float(right.all()) if before.right[i].all() else np.nan
            old, new = before.first[i].astype(float), after.first[i].astype(float)
            row["kl"] = max(0.0, float((np.exp(old) * (old - new)).sum()))
        rows.append(row)
    return pd.DataFrame(rows, columns=["edit", "kind", "language", *SCORES])


def says(text: str, names: tuple[str, ...], suffix: str) -> bool:
    """Whether a generated text is one of the names, up to what the prompt's template puts behind an answer.

    Example
    -------
    >>> says(" Washington D.C. It is", ("Washington D.C.",), ".")
    True
    """
    line = text.lstrip().split("\n")[0]
    for name in names:
        # Looked for behind the name: it may hold the suffix itself.
        end = line.find(suffix, max(0, len(name) - len(suffix))) if suffix else -1
        if exact_match(line if end < 0 else line[:end], name):
            return True
    return False
