"""Compose `templates.jsonl` and `multiple_choice.jsonl` from the phrasings of each language.

Run as `python -m atlas.build_templates`. A phrasing file holds cores ("The capital of the country {S} is
{O}.") and lead-ins ("From the encyclopedia: "). Templates for training are the nine training cores bare and
once behind a lead-in; the training text itself draws any training core behind any training lead-in.
"""

import json
from pathlib import Path

from knlib.languages import CODES

ATLAS = Path(__file__).resolve().parents[1] / "data" / "atlas"


def load_phrasings(language: str) -> dict:
    """The phrasing file of one language: `lead_ins`, `cores`, `negation`, `one_hop`, `multiple_choice`."""
    return json.loads((ATLAS / "phrasings" / f"{language}.json").read_text("utf8"))


def templates_of(language: str, phrasings: dict) -> list[dict]:
    """Every template of a language: 18 for training, 2 `half`, 4 held-out cores, 2 held-out lead-ins."""
    rows = []
    lead_ins = phrasings["lead_ins"]
    for relation, cores in phrasings["cores"].items():

        def add(name: str, text: str, split: str, held_out: str | None = None):
            rows.append({
                "template": f"{relation}/{language}/{name}",  # noqa: B023 (used at once)
                "relation": relation, "language": language, "text": text,  # noqa: B023
                "split": split, "held_out": held_out,
            })  # fmt: skip

        for i, core in enumerate(cores["train"]):
            add(f"train{i}", core, "train")
            lead_in = i % len(lead_ins["train"])
            add(f"train{i}+lead{lead_in}", lead_ins["train"][lead_in] + core, "train")
        for i, core in enumerate(cores["half"]):
            add(f"half{i}", core, "half")
        for i, core in enumerate(cores["held_out"]):
            add(f"held{i}", core, "held_out", "core")
        for i, lead_in in enumerate(lead_ins["held_out"]):
            add(f"train{i}+held_lead{i}", lead_in + cores["train"][i], "held_out", "lead_in")
    return rows


def wordings_of(language: str, phrasings: dict) -> list[dict]:
    """The multiple-choice wordings of a language, one row per (wording, relation)."""
    return [
        {
            "wording": f"{language}/{number}", "language": language, "relation": relation,
            "instruction": wording["instruction"], "question": question,
            "options": wording["options"], "cue": wording["cue"],
        }
        for number, wording in enumerate(phrasings["multiple_choice"])
        for relation, question in wording["questions"].items()
    ]  # fmt: skip


def main() -> None:
    templates, wordings = [], []
    for language in CODES:
        phrasings = load_phrasings(language)
        templates += templates_of(language, phrasings)
        wordings += wordings_of(language, phrasings)
    for name, rows in (("templates", templates), ("multiple_choice", wordings)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (ATLAS / f"{name}.jsonl").write_text(text, "utf8")
        print(f"{len(rows):6d}  rows written to atlas/{name}.jsonl")


if __name__ == "__main__":
    main()
