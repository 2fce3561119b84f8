"""Hand-written mLAMA and mParaRel files in both layouts, with one row for every gate of the benchmark builder."""

import json
import lzma
from pathlib import Path

# English and Finnish (a language with case endings). What a row breaks stands behind it.
MLAMA_PATTERNS = {
    "en": ["The capital of [X] is [Y].", "[X] has [Y] as capital."],  # not_last
    "fi": ["[X]: pääkaupunki [Y].", "[X]n pääkaupunki on [Y]."],  # glued
}
MPARAREL_PATTERNS = {
    "en": [
        ("capital of [X], [Y]", False),
        ("[X] — capital: [Y]", True),
        ("[Y] is the capital of [X]", True),  # answer_first
        ("the  capital of [x] is [Y]", True),  # slots
        ("THE capital of [X] is [Y]", False),  # duplicate
        ("столица [X]: [Y]", False),  # script
    ],
    "fi": [("pääkaupunki ([X]): [Y]", False)],
}
# line, subject id, object id, English names, Finnish names
FACTS = [
    (0, "Q142", "Q90", ("France", "Paris"), ("Ranska", "Pariisi")),
    (1, "Q419", "Q2868", ("Peru", "Lima"), ("Peru", "Lima")),
    (2, "Q32", "Q1842", ("Luxembourg", "Luxembourg"), ("Luxemburg", "Luxemburg")),  # leak, leak
    (3, "Q258", "Q3926", ("South Africa", "Pretoria"), ("Etelä-Afrikka", "Pretoria")),
    (4, "Q258", "Q5465", ("South Africa", "Cape Town"), ("Etelä-Afrikka", "Kapkaupunki")),  # many_valued, many_valued
    (5, "Q657", "Q3659", ("Chad", "N’Djamena"), None),  # not_parallel
    (6, "Q230", "Q994", ("Georgia", "Tbilisi"), ("Gruusia", "Tbilisi")),  # ambiguous, not_parallel
    (7, "Q1428", "Q23556", ("Georgia", "Atlanta"), ("Georgian osavaltio", "Atlanta")),  # ambiguous, not_parallel
    (8, "Q801", "Q1218", (" ", "Jerusalem"), None),  # empty
    (9, "Q213", "Q1085", ("Czechia<!-- moved -->", "Prague"), None),  # markup
    (10, "Q212", "Q1899", None, ("Ukraina", "Київ")),  # script
    (11, "Q1", "Q2", ("Foo", "Capital"), ("Foo", "Capital")),  # few_queries (in each English template), not_parallel
]
# mParaRel: the same again (duplicate), another name (alias), other ids (conflict)
TUPLES = [
    (0, "Q142", "Q90", ("France", "Paris"), None),
    (1, "Q419", "Q2868", ("Republic of Peru", "Lima"), None),
    (3, "Q29", "Q2807", None, ("Espanja", "Madrid")),
]
NAMES = {
    ("en", "kept"): 3, ("en", "leak"): 1, ("en", "many_valued"): 1, ("en", "not_parallel"): 1, ("en", "ambiguous"): 2,
    ("en", "empty"): 1, ("en", "markup"): 1, ("en", "few_queries"): 1, ("en", "duplicate"): 1, ("en", "alias"): 1,
    ("fi", "kept"): 3, ("fi", "leak"): 1, ("fi", "many_valued"): 1, ("fi", "not_parallel"): 3, ("fi", "script"): 1,
    ("fi", "conflict"): 1,
}  # fmt: skip
TEMPLATES = {
    ("en", "kept"): 3, ("en", "not_last"): 1, ("en", "answer_first"): 1, ("en", "slots"): 1, ("en", "duplicate"): 1,
    ("en", "script"): 1, ("fi", "kept"): 2, ("fi", "glued"): 1,
}  # fmt: skip


def lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")


def name_rows(facts, language: int) -> list[dict]:
    return [{"lineid": line, "sub_uri": s, "obj_uri": o, "sub_label": names[language][0], "obj_label": names[language][1]}
            for line, s, o, *names in facts if names[language]]  # fmt: skip


def write_published(root: Path) -> Path:
    """The published layout: one relation with a row for every gate, one that Finnish has a single template of."""
    birth = [(0, "Q7", "Q90", ("Ann", "Paris"), ("Anna", "Pariisi"))]
    for i, code in enumerate(("en", "fi")):
        patterns = [{"relation": "P36", "template": text} for text in MLAMA_PATTERNS[code]]
        patterns += [{"relation": "P19", "template": "[X] — [Y]."}]
        lines(root / "mlama" / code / "templates.jsonl", patterns)
        lines(root / "mlama" / code / "P36.jsonl", name_rows(FACTS, i))
        lines(root / "mlama" / code / "P19.jsonl", name_rows(birth, i))
        lines(root / "mpararel" / "tuples" / code / "P36.jsonl", name_rows(TUPLES, i))
        reviewed = [{"pattern": text, "checked-by-human": checked} for text, checked in MPARAREL_PATTERNS[code]]
        lines(root / "mpararel" / "patterns" / code / "P36.jsonl", reviewed)
    lines(root / "mpararel" / "patterns" / "en" / "P19.jsonl", [{"pattern": "[X] was born in [Y]"}])
    return root


def write_packed(root: Path) -> Path:
    """The same names and patterns of P36 in the packed layout."""
    ids = {line: (s, o) for line, s, o, *_ in FACTS}
    rows = ["relation\tlineid\tsub_uri\tobj_uri\tuuid\tin_mlama\tin_mpararel"]
    rows += [f"P36\t{line}\t{s}\t{o}\tu{line}\t1\t1" for line, (s, o) in ids.items()]
    (root / "labels").mkdir(parents=True)
    (root / "master.tsv.xz").write_bytes(lzma.compress("\n".join(rows).encode()))
    for i, code in enumerate(("en", "fi")):
        rows = ["src\trelation\tlineid\tsub_label\tobj_label"]
        for line, _, _, *names in FACTS:
            if names[i]:
                rows.append("\t".join(("b" if code == "en" and line == 0 else "m", "P36", str(line), *names[i])))
        if code == "en":
            rows.append("p\tP36\t1\tRepublic of Peru\tLima")
        (root / "labels" / f"{code}.tsv.xz").write_bytes(lzma.compress(("\n".join(rows) + "\n").encode()))
    lines(root / "mlama_templates.jsonl",
          [{"lang": c, "relation": "P36", "template": t} for c, texts in MLAMA_PATTERNS.items() for t in texts])  # fmt: skip
    lines(root / "mpararel_patterns_reviewed.jsonl",
          [{"lang": c, "relation": "P36", "pattern": t, "checked_by_human": checked}
           for c, texts in MPARAREL_PATTERNS.items() for t, checked in texts])  # fmt: skip
    return root
