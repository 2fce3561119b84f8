"""The Atlas edit set: facts with a new object, and the queries that tell what an edit of them did.

A folder holds it beside `facts.jsonl` and `templates.jsonl`: `edits.jsonl` (ids only) and `portability.jsonl`
(templates of one-hop questions).
"""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pandas as pd

from .errors import InputError, Literal
from .facts import ATLAS, load_facts, read_jsonl, text_field
from .languages import parse_languages
from .queries import QUERY_COLUMNS, build_queries, check_template, languages_of, load_templates

SPLITS = ("dev", "test")
LOCALITY = ("same_subject", "same_relation", "unrelated")
# Last parts of the ids of Atlas templates. The locating ones are trained and without a lead-in, as the request is.
REQUEST = "train0"
LOCATING = tuple(f"train{i}" for i in range(1, 9))


@dataclass(frozen=True)
class EditSet:
    """Query tables of the edits; each has the columns of `knlib.queries.build_queries` and `edit`.

    `requests`: one row per edit and language, with `new` (the new object's name), `new_id` and `new_aliases`;
    `locating`: the same facts in eight trained templates, to find neurons with; `paraphrases`: in held-out templates,
    with `new`, `new_id`, `new_aliases`; `locality`: other facts, which must stay as they are, with `kind`
    (`same_subject`, `same_relation`, `unrelated`). No template of one of the first three is in another.

    `portability`: one-hop questions in two wordings, with `kind`, `question`, `new`, `new_id`, `new_aliases` and
    `seen`. Rows of kind `portability` ask about an edit: `answer` is right before it, `new` after it. Rows of kind
    `ceiling` ask the same about a fact (`fact`) that no edit touches: `new` is `answer`. Where the unedited model
    fails at `ceiling`, portability cannot be measured. `seen`: training stated this very sentence with this `answer`.
    """

    requests: pd.DataFrame
    locating: pd.DataFrame
    paraphrases: pd.DataFrame
    locality: pd.DataFrame
    portability: pd.DataFrame


def load_edits(
    folder: str | Path = ATLAS, languages: tuple[str, ...] | str | None = None, split: str | None = None
) -> EditSet:
    """The edit set of a benchmark folder, validated, as query tables in the chosen languages (default: all).

    `split`: `dev`, `test`, or None for both. An edit's id comes in all tables; a fact that is a neighbour of two
    edits has a row for each, with the same `query`. Every edit has a request in every language, or `InputError` says
    which is missing.

    Raises `InputError` with file, line and field for a malformed row, an edit or fact that comes twice, an unknown
    fact, object, question or split.

    Example
    -------
    >>> edits = load_edits(languages=("en", "ja"), split="dev")
    >>> edits.requests[["prompt", "answer", "new"]].head(1).values.tolist()
    [['The capital of the country Cameroon is', 'Yaoundé', 'Road Town']]
    """
    if split is not None and split not in SPLITS:
        raise InputError("split", found=split, expected=Literal("one of " + " ".join(SPLITS)))
    folder = Path(folder)
    languages = parse_languages(languages, known=languages_of(folder))
    facts = load_facts(folder).set_index("fact", drop=False)
    wordings = load_portability(folder, languages)
    edits = _read_edits(folder / "edits.jsonl", facts, set(wordings["question"]))
    edits = edits[edits["split"] == split].reset_index(drop=True) if split else edits
    templates = load_templates(folder, languages=languages)
    number = templates["template"].str.split("/").str[-1]
    edited, names = facts[facts["fact"].isin(edits["fact"])], _entity_names(facts)

    def asked(chosen: pd.DataFrame) -> pd.DataFrame:
        table = edits[["edit", "fact", "new"]].merge(build_queries(edited, chosen)[0], on="fact")
        return _with_new(table[[*QUERY_COLUMNS, "edit", "new"]], names)

    requests = asked(templates[number == REQUEST])
    _check_complete(requests, edits, languages)
    locating = asked(templates[number.isin(LOCATING)]).drop(columns=["new", "new_id", "new_aliases"])
    paraphrases = asked(templates[templates["held_out"] == "core"])
    return EditSet(requests, locating, paraphrases, _locality(edits, facts, templates[number == REQUEST]),
                   _portability(edits, facts, wordings, names))  # fmt: skip


def load_portability(folder: str | Path = ATLAS, languages: tuple[str, ...] | None = None) -> pd.DataFrame:
    """The templates of one-hop questions: `template`, `question`, `relation`, `language`, `text`, `trained`.

    `relation`: of the answer. `trained`: the Atlas models were trained on sentences of this wording. Raises
    `InputError` with file, line and field.
    """
    path, rows, seen = Path(folder) / "portability.jsonl", [], {}
    for number, row in read_jsonl(path):
        where = f"{path.name}, line {number}"
        values = [text_field(row, field, where) for field in ("template", "question", "relation", "language")]
        _once(seen, values[0], number, f"{where}, field 'template'")
        check_template(row.get("text"), f"{where}, field 'text'")
        if not isinstance(row.get("trained"), bool):
            raise InputError(f"{where}, field 'trained'", found=row.get("trained"), expected="true or false")
        rows.append((*values, row["text"], row["trained"]))
    columns = ["template", "question", "relation", "language", "text", "trained"]
    table = pd.DataFrame(rows, columns=columns)
    return table if languages is None else table[table["language"].isin(languages)].reset_index(drop=True)


# Reading


def _read_edits(path: Path, facts: pd.DataFrame, questions: set[str]) -> pd.DataFrame:
    entities = set(facts["subject_id"]) | set(facts["object_id"])
    objects = facts.groupby("relation")["object_id"].agg(set)
    rows, edits, edited = [], {}, {}
    for number, row in read_jsonl(path):
        where = f"{path.name}, line {number}"
        edit, fact, new = (text_field(row, field, where) for field in ("edit", "fact", "new"))
        _once(edits, edit, number, f"{where}, field 'edit'")
        _known(fact, facts.index, f"{where}, field 'fact'", "a fact of facts.jsonl")
        _once(edited, fact, number, f"{where}, field 'fact'")
        relation = facts.at[fact, "relation"]
        _known(new, objects[relation] - {facts.at[fact, "object_id"]}, f"{where}, field 'new'",
               f"another object of the relation {relation}")  # fmt: skip
        _known(row.get("split"), SPLITS, f"{where}, field 'split'", Literal(" or ".join(SPLITS)))
        locality = row.get("locality")
        if not isinstance(locality, dict) or set(locality) != set(LOCALITY):
            raise InputError(f"{where}, field 'locality'", found=locality, expected="lists of " + " ".join(LOCALITY))
        for kind, group in locality.items():
            for other in _list(group, f"{where}, field 'locality', {kind}"):
                _known(other, facts.index, f"{where}, field 'locality', {kind}", "a fact of facts.jsonl")
        items = _list(row.get("portability"), f"{where}, field 'portability'")
        for i, item in enumerate(items):
            _check_item(item, f"{where}, field 'portability', item {i}", facts, entities, questions)
        rows.append((edit, fact, new, row["split"], locality, items))
    return pd.DataFrame(rows, columns=["edit", "fact", "new", "split", "locality", "portability"])


def _check_item(item: object, where: str, facts: pd.DataFrame, entities: set[str], questions: set[str]) -> None:
    if not isinstance(item, dict):
        raise InputError(where, found=item, expected="an object")
    _known(item.get("question"), questions, f"{where}, field 'question'", "a question of portability.jsonl")
    ceiling = item.get("ceiling")
    parts = [(item, ("subject", "old", "new"), where)]
    if ceiling is not None:
        if not isinstance(ceiling, dict):
            raise InputError(f"{where}, field 'ceiling'", found=ceiling, expected="an object or null")
        _known(ceiling.get("fact"), facts.index, f"{where}, field 'ceiling', fact", "a fact of facts.jsonl")
        parts.append((ceiling, ("subject", "answer"), f"{where}, field 'ceiling'"))
    for part, fields, place in parts:
        for field in fields:
            _known(part.get(field), entities, f"{place}, field '{field}'", "an entity of facts.jsonl")
        for fact in _list(part.get("rests_on"), f"{place}, field 'rests_on'"):
            _known(fact, facts.index, f"{place}, field 'rests_on'", "a fact of facts.jsonl")


def _list(value: object, where: str) -> list:
    if not isinstance(value, list):
        raise InputError(where, found=value, expected="a list")
    return value


def _known(value: object, known, where: str, expected: str) -> None:
    if not isinstance(value, str) or value not in known:
        raise InputError(where, found=value, expected=expected)


def _once(seen: dict, value: str, number: int, where: str) -> None:
    if value in seen:
        raise InputError(where, found=value, expected=f"each once (line {seen[value]} has this one)")
    seen[value] = number


def _check_complete(requests: pd.DataFrame, edits: pd.DataFrame, languages: tuple[str, ...]) -> None:
    there = set(zip(requests["edit"], requests["language"], strict=True))
    for edit in edits["edit"]:
        for language in languages:
            if (edit, language) not in there:
                raise InputError(f"edits.jsonl, edit {edit}", found=Literal(f"no request in {language}"),
                                 expected=f"a fair question in the template {REQUEST}")  # fmt: skip


# Tables


def _entity_names(facts: pd.DataFrame) -> dict[str, dict[str, tuple[str, ...]]]:
    sides = [zip(facts[f"{side}_id"], facts[side], strict=True) for side in ("subject", "object")]
    return dict(chain(*sides))


def _names(names: dict, key: str, language: str) -> tuple[str, ...]:
    if language not in names[key]:
        raise InputError(f"edits.jsonl, entity {key}", found=Literal(f"no name in {language}"),
                         expected="one, for questions in this language")  # fmt: skip
    return names[key][language]


def _with_new(table: pd.DataFrame, names: dict) -> pd.DataFrame:
    found = [_names(names, key, language) for key, language in zip(table["new"], table["language"], strict=True)]
    return table.assign(new=[name[0] for name in found], new_id=table["new"], new_aliases=[name[1:] for name in found])


def _locality(edits: pd.DataFrame, facts: pd.DataFrame, templates: pd.DataFrame) -> pd.DataFrame:
    pairs = [(row.edit, kind, fact) for row in edits.itertuples() for kind in LOCALITY for fact in row.locality[kind]]
    pairs = pd.DataFrame(pairs, columns=["edit", "kind", "fact"])
    queries, _ = build_queries(facts[facts["fact"].isin(pairs["fact"])], templates)
    return pairs.merge(queries, on="fact")[[*QUERY_COLUMNS, "edit", "kind"]]


def _portability(edits: pd.DataFrame, facts: pd.DataFrame, wordings: pd.DataFrame, names: dict) -> pd.DataFrame:
    one_hop, withheld = facts["one_hop"].to_dict(), facts["withheld"].to_dict()
    by_question, rows = dict(list(wordings.groupby("question"))), []
    for edit in edits.itertuples():
        for item in edit.portability:
            kinds = [("portability", edit.fact, item["subject"], item["old"], item["new"], item["rests_on"])]
            if item["ceiling"]:
                one = item["ceiling"]
                kinds.append(("ceiling", one["fact"], one["subject"], one["answer"], one["answer"], one["rests_on"]))
            for kind, fact, subject, old, new, rests_on in kinds:
                hidden = {code for one in (fact, *rests_on) for code in withheld[one]}
                for wording in by_question[item["question"]].itertuples():
                    code = wording.language
                    name, answer = _names(names, subject, code)[0], _names(names, old, code)
                    prompt, suffix = wording.text.replace("{S}", name).split("{O}")
                    bare = prompt.rstrip()
                    seen = wording.trained and bool(one_hop[fact]) and code not in hidden
                    rows.append((f"{fact}|{wording.template}", fact, wording.relation, code, wording.template,
                                 "train" if wording.trained else "held_out", None, name, bare, prompt[len(bare):],
                                 answer[0], suffix, answer[1:], edit.edit, kind, item["question"], new,
                                 seen))  # fmt: skip
    columns = [*QUERY_COLUMNS, "edit", "kind", "question", "new", "seen"]
    return _with_new(pd.DataFrame(rows, columns=columns), names)
