"""Queries: templates filled with facts, behind gates that keep only fair cloze questions."""

from pathlib import Path

import pandas as pd

from .errors import InputError, Literal
from .facts import ATLAS, read_jsonl, select_relations, text_field
from .languages import CODES

SPLITS = ("train", "half", "held_out")
MODES = ("causal", "mlm")
TEMPLATE_COLUMNS = ["template", "relation", "language", "text", "split", "held_out"]
QUERY_COLUMNS = ["query", "fact", "relation", "language", "template", "split", "held_out",
                 "subject", "prompt", "space", "answer", "suffix", "aliases"]  # fmt: skip


def load_templates(
    folder: str | Path = ATLAS,
    *,
    relations: list[str] | None = None,
    languages: tuple[str, ...] | None = None,
    mode: str = "causal",
) -> pd.DataFrame:
    """The templates of a benchmark folder, validated, one row per template.

    Columns: `template` (stable id), `relation`, `language`, `text` (with `{S}` and, after it, `{O}`
    followed by nothing but punctuation), `split` (`train`, `half`, `held_out`), `held_out` (`core`: a
    construction never trained, `lead_in`: a trained one behind an unseen opening, else None).

    A row of the file with `"mode": "mlm"` may have words behind `{O}`: only masked models can be asked so. These rows
    are left out unless `mode="mlm"`, which gives all.

    Raises `InputError` with file, line and field, also for a relation or language without templates.
    """
    if mode not in MODES:
        raise InputError("mode", found=mode, expected=Literal("one of " + " ".join(MODES)))
    path = Path(folder) / "templates.jsonl"
    rows, seen = [], {}
    for number, row in read_jsonl(path):
        where = f"{path.name}, line {number}"
        values = [text_field(row, field, where) for field in ("template", "relation", "language")]
        if values[0] in seen:
            raise InputError(f"{where}, field 'template'", found=values[0],
                             expected=f"an id of its own (line {seen[values[0]]} has this one)")  # fmt: skip
        seen[values[0]] = number
        text, asks = row.get("text"), row.get("mode", "causal")
        if asks not in MODES:
            raise InputError(f"{where}, field 'mode'", found=asks, expected=Literal(" or ".join(MODES)))
        check_template(text, f"{where}, field 'text'", mode=asks)
        if row.get("split", "train") not in SPLITS:
            raise InputError(f"{where}, field 'split'", found=row["split"], expected=Literal(" or ".join(SPLITS)))
        if mode == "mlm" or asks == "causal":
            rows.append((*values, text, row.get("split", "train"), row.get("held_out")))
    if not rows:
        raise InputError(path.name, found=Literal("mode mlm in every row"), expected="a template for causal models")
    templates = pd.DataFrame(rows, columns=TEMPLATE_COLUMNS)
    for code in languages or ():
        if code not in set(templates["language"]):
            raise InputError("languages", found=code,
                             expected=Literal("one of " + " ".join(templates["language"].unique())))  # fmt: skip
    if languages is not None:
        templates = templates[templates["language"].isin(languages)].reset_index(drop=True)
    return select_relations(templates, relations)


def languages_of(folder: str | Path = ATLAS) -> tuple[str, ...]:
    """The languages that a benchmark folder has templates for: those of Atlas in their order, then the others.

    Example
    -------
    >>> parse_languages("all", known=languages_of("my-benchmark"))
    ('en', 'fr', 'fi', 'hu')
    """
    found = list(dict.fromkeys(load_templates(folder, mode="mlm")["language"]))
    return tuple(sorted(found, key=lambda code: CODES.index(code) if code in CODES else len(CODES)))


def check_template(text: object, where: str, *, mode: str = "causal") -> None:
    """`InputError` unless `text` has `{S}` once, then `{O}` once, then (mode causal) only punctuation."""
    if not isinstance(text, str) or not text.strip():
        raise InputError(where, found=text, expected="text with the slots {S} and {O}")
    for slot in ("{S}", "{O}"):
        if text.count(slot) != 1:
            raise InputError(where, found=text, expected=f"the slot {slot} exactly once")
    before, after = text.split("{O}")
    if "{S}" not in before:
        raise InputError(where, found=text, expected="{S} before {O}: the answer comes last")
    if mode == "causal" and any(c.isalnum() for c in after):
        raise InputError(where, found=text, expected="nothing but punctuation after {O}")


def build_queries(
    facts: pd.DataFrame,
    templates: pd.DataFrame,
    *,
    splits: tuple[str, ...] = ("train", "held_out"),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fill every template with every fact of its relation, through the gates.

    Returns `(queries, report)`. A query row: `query` (id), `fact`, `relation`, `language`, `template`,
    `split`, `held_out`, `subject`, `prompt` (without final blank), `space` (what joins prompt and answer:
    a blank or nothing), `answer`, `suffix` (closing punctuation; in mode mlm all that follows), `aliases` (other
    accepted names).
    The report has one row per relation and language: `slots` (pairs of fact and template) and how many each
    gate dropped: `no_name`, `leak`, `ambiguous`, `object_in_prompt`, `duplicate`; and `queries` that stay.

    Example
    -------
    >>> queries, report = build_queries(*load_atlas(relations=["capital"], languages=("en",)))
    >>> queries.loc[queries["fact"] == "capital:FR", ["prompt", "space", "answer", "suffix"]].values[0].tolist()
    ['The capital of the country France is', ' ', 'Paris', '.']
    """
    for split in splits:
        if split not in SPLITS:
            raise InputError("splits", found=split, expected=Literal("one of " + " ".join(SPLITS)))
    rows, reports = [], []
    by_relation = dict(tuple(facts.groupby("relation", sort=False)))
    templates = templates[templates["split"].isin(splits)]
    for (relation, language), group in templates.groupby(["relation", "language"], sort=False):
        counts = dict.fromkeys(("slots", "no_name", "leak", "ambiguous", "object_in_prompt", "duplicate"), 0)
        texts, wordings = set(), list(group.itertuples())
        for fact in by_relation.get(relation, facts[:0]).itertuples():
            for template in wordings:
                counts["slots"] += 1
                row = _fill(fact, template, texts)
                if isinstance(row, str):
                    counts[row] += 1
                else:
                    rows.append(row)
        dropped = sum(counts.values()) - counts["slots"]
        reports.append({"relation": relation, "language": language, **counts,
                        "queries": counts["slots"] - dropped})  # fmt: skip
    return pd.DataFrame(rows, columns=QUERY_COLUMNS), pd.DataFrame(reports)


def _fill(fact, template, texts: set[str]) -> tuple | str:
    """One query row, or the name of the gate that refuses it."""
    code = template.language
    if code not in fact.subject or code not in fact.object:
        return "no_name"
    if code in fact.leak:
        return "leak"
    if code in fact.ambiguous:
        return "ambiguous"
    subject, names = fact.subject[code][0], fact.object[code]
    prompt, suffix = template.text.replace("{S}", subject).split("{O}")
    # Words behind the answer (mode mlm) are part of what is asked, closing punctuation is not.
    asked = (prompt + "\n" + suffix if any(c.isalnum() for c in suffix) else prompt).casefold()
    if any(name.casefold() in asked for name in names):
        return "object_in_prompt"
    if asked in texts:
        return "duplicate"
    texts.add(asked)
    bare = prompt.rstrip()
    return (f"{fact.fact}|{template.template}", fact.fact, fact.relation, code, template.template,
            template.split, template.held_out, subject, bare, prompt[len(bare):], names[0], suffix,
            names[1:])  # fmt: skip


def load_atlas(*, relations: list[str] | None = None, languages: tuple[str, ...] | None = None):
    """`(facts, templates)` of Atlas: short for `load_facts` and `load_templates` with the same choice."""
    from .facts import load_facts

    return (
        load_facts(relations=relations),
        load_templates(relations=relations, languages=languages),
    )
