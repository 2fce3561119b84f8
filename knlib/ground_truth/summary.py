"""The findings in a few lines: for every question how often it was decided which way, and the comparisons that were chosen beforehand."""

from collections import Counter
from collections.abc import Sequence

from .consistency import NAMES
from .estimates import GROWING
from .fact_plots import score_name
from .plots import name_of
from .questions import UNDECIDED, Finding
from .scorers import MATRICE, ORACLE

# Of a question with many comparisons those that are printed, whatever came out. Of others the first few.
ROWS = ("ig", "gradient_x_activation", "activation", MATRICE, ORACLE)
CHOSEN = (
    "all, average_precision", "all, at_k", *(f"{what} uncertainty, all, precision" for what in ("query", "language", "either")),
    *(f"{name}, agnostic" for name in ("kn_share", "amig", "min_lang")), "cs_1 threshold", "cs_2 threshold", "jaccard top10", "spearman",
    *(f"{row}, all, {measure}" for row in ("lafn", "lafn at the answer") for measure in ("auroc", "at_k against random")),
    *ROWS, *(f"{row}, average_precision, {kind}" for row in ROWS for kind in GROWING),
)  # fmt: skip
FEW = 4  # a question with so few comparisons is printed whole
VERDICTS = ("yes", "no", UNDECIDED)


def summary(findings: Sequence[Finding]) -> list[str]:
    """Lines to print: each question with the counts of its verdicts, below it the comparisons of `CHOSEN` with verdict and interval.

    Which comparisons are shown does not depend on what came out. `findings`: of `questions`.

    Example
    -------
    >>> print("\\n".join(summary(questions(tables))))
    Is integrated gradients better than one backward pass? yes 3, no 1, undecided 14
        all, average precision: yes, 0.04 [0.01, 0.07]
    """
    lines, by_question = [], {}
    for finding in findings:
        by_question.setdefault(finding.question, []).append(finding)
    for question, own in by_question.items():
        counts = Counter(finding.verdict for finding in own)
        lines.append(
            f"{question} " + ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS if counts[verdict])
        )
        shown = own if len(own) <= FEW else [finding for finding in own if finding.about in CHOSEN] or own[:FEW]
        for finding in shown:
            about = ", ".join(_said(part) for part in finding.about.split(", "))
            lines.append(f"    {about}: {finding.verdict}, {finding.interval}")
    return lines


def _said(part: str) -> str:
    """A part of `about` in words: scores of consistency and methods have names."""
    head, at, rest = part.partition(" at ")
    if head in NAMES:
        return score_name(head) + at + rest
    return name_of(part).replace("_", " ")
