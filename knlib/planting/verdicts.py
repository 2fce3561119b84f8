"""Does a planted fact's signature hold? One rule per type, on means over phrasings, language by language."""

import pandas as pd

from .truth import Truth

KNOWN = 0.5  # P(answer) from which on an answer counts as known
CHANCE = 0.1  # and up to which it counts as lost: no planted relation has objects that are as probable for an unknown subject
# The same where the neurons of a relation push all of its objects alike: continents are six.
PUSHED = 0.25
MOST = 0.75  # of a fact's languages, in which its signature must hold


def verdicts(table: pd.DataFrame, truth: Truth) -> pd.DataFrame:
    """Per planted fact, whether its type's signature holds on the phrasings of the table.

    `table` of `signatures`; P is averaged over the phrasings of a language (of type `query`: over those of a group). In a language, all
    of its type's rules must hold:

    - all types: with all neurons the answer is known, without the fact's groups it is lost;
    - agnostic, language, half, query: without a group the answer is lost where the group was planted for, and known elsewhere; with only
      the group it is known where it was planted for;
    - redundant: with only one of the two groups, and without it, the answer is known;
    - relation: without the fact's own neurons, and with only the relation's, the answer is lost (P up to .25: a relation's objects are
      pushed alike); without the relation's it falls below half;
    - distributed: with only its neurons it is known; without the 4 strongest it still is, with only these it is lost.

    Returns one row per fact: `fact`, `type`, `languages` (how many), `holding` (in which of them: a tuple), `holds` (in at least `MOST` of
    them), `everywhere` (in all), `failed` (the first rule that broke in a language, or empty), `p_all`, `p_none` (means).

    Example
    -------
    >>> verdicts(table[table["split"] == "train"], truth).groupby("type")["holds"].sum()
    """
    by = ["fact", "type", "language", "group", "inside"]
    means = table.groupby(by, sort=False)[["p_all", "p_none", "p_without", "p_only"]].mean().reset_index()
    found = []
    for (fact, kind), part in means.groupby(["fact", "type"], sort=False):
        broken = {
            language: _broken(kind, list(rows.itertuples())) for language, rows in part.groupby("language", sort=False)
        }
        holding = tuple(language for language, rule in broken.items() if not rule)
        languages = len(truth.facts.set_index("fact").loc[fact, "languages"])
        failed = next(
            (rule for rule in broken.values() if rule), "" if len(broken) == languages else "a language without queries"
        )
        found.append((fact, kind, languages, holding, len(holding) >= MOST * languages, len(holding) == languages, failed,
                      part["p_all"].mean(), part["p_none"].mean()))  # fmt: skip
    columns = ["fact", "type", "languages", "holding", "holds", "everywhere", "failed", "p_all", "p_none"]
    return pd.DataFrame(found, columns=columns)


def _broken(kind: str, rows: list) -> str:
    """The rule that the groups' rows of one language break, or an empty text."""
    for row in rows:
        if row.p_all < KNOWN:
            return "known with all"
        if row.p_none > CHANCE:
            return "lost without the fact's groups"
        if kind == "redundant":
            rules = {"known without": row.p_without >= KNOWN, "known with only": row.p_only >= KNOWN}
        elif kind == "relation" and row.group == "relation":
            rules = {"halved without": row.p_without <= row.p_all / 2, "lost with only": row.p_only <= PUSHED}
        elif kind == "relation":
            rules = {"lost without": row.p_without <= PUSHED}
        elif row.group == "few":
            rules = {"known without": row.p_without >= KNOWN, "lost with only": row.p_only <= CHANCE}
        elif row.inside:
            rules = {"lost without": row.p_without <= CHANCE, "known with only": row.p_only >= KNOWN}
        else:
            rules = {"known without": row.p_without >= KNOWN}
        for rule, holds in rules.items():
            if not holds:
                return f"{rule} {row.group}" + ("" if row.inside else ", outside of it")
    return ""


def passed(table: pd.DataFrame) -> pd.DataFrame:
    """How many facts of each type pass: `planted`, `holds`, `everywhere`, and the mean `p_all`, `p_none`, indexed by `type`.

    `table` of `verdicts`.

    Example
    -------
    >>> passed(verdicts(table, truth)).loc["agnostic", "holds"]
    """
    return table.groupby("type", sort=False).agg(
        planted=("fact", "size"),
        holds=("holds", "sum"),
        everywhere=("everywhere", "sum"),
        p_all=("p_all", "mean"),
        p_none=("p_none", "mean"),
    )
