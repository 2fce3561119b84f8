"""Fixtures that many tests share: Atlas, a benchmark of five facts, tiny random models."""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported: no test asks the network

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    XLMRobertaConfig,
)

from atlas.tokenizer import wrap
from knlib.facts import load_facts
from knlib.models import SHIPPED, load_model
from knlib.queries import build_queries, load_templates

ATLAS_MODEL = SHIPPED / "atlas-llama"
TINY_LAYERS, TINY_NEURONS = 3, 40

# Random weights wide enough (0.2) that no two candidates score nearly alike.
_SHAPE = {
    "hidden_size": 32, "num_hidden_layers": TINY_LAYERS, "num_attention_heads": 4, "initializer_range": 0.2,
}  # fmt: skip
_LLAMA = _SHAPE | {"intermediate_size": TINY_NEURONS, "num_key_value_heads": 2, "max_position_embeddings": 96}
_BERT = _SHAPE | {"intermediate_size": TINY_NEURONS, "max_position_embeddings": 98}
TINY = {
    "bert": (BertConfig, _BERT),
    "xlm-r": (XLMRobertaConfig, _BERT),
    "gpt2": (GPT2Config, {"n_embd": 32, "n_inner": TINY_NEURONS, "n_layer": TINY_LAYERS, "n_head": 4,
                          "n_positions": 96, "initializer_range": 0.2}),
    "gpt-neox": (GPTNeoXConfig, _SHAPE | {"intermediate_size": TINY_NEURONS, "max_position_embeddings": 96}),
    "bloom": (BloomConfig, {"hidden_size": 32, "n_layer": TINY_LAYERS, "n_head": 4, "initializer_range": 0.2}),
    "llama": (LlamaConfig, _LLAMA),
    "mistral": (MistralConfig, _LLAMA),
    "qwen2": (Qwen2Config, _LLAMA),
    "gemma2": (Gemma2Config, _LLAMA | {"head_dim": 8}),
}  # fmt: skip
MASKED = ("bert", "xlm-r")


@pytest.fixture(scope="session")
def facts():
    return load_facts()


@pytest.fixture(scope="session")
def templates():
    return load_templates()


@pytest.fixture(scope="session")
def some_queries(facts, templates):
    """48 Atlas queries: capitals and continents of four countries, two phrasings, en ru ja."""
    chosen = facts[
        facts["subject_id"].isin(["FR", "EG", "NP", "CL"]) & facts["relation"].isin(["capital", "continent"])
    ]
    number = templates["template"].str.split("/").str[-1]
    kept = templates[number.isin(["train0", "held1"]) & templates["language"].isin(["en", "ru", "ja"])]
    queries, _ = build_queries(chosen, kept)
    assert len(queries) == 48
    return queries


@pytest.fixture(scope="session")
def tokenizer():
    """The Atlas tokenizer, as causal models use it."""
    if not ATLAS_MODEL.is_dir():
        pytest.skip("data/models/atlas-llama is missing")
    return AutoTokenizer.from_pretrained(ATLAS_MODEL)


@pytest.fixture(scope="session")
def tiny_folder(tokenizer, tmp_path_factory):
    """A function from an architecture's name to the folder of a small random checkpoint of it."""
    made = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("models") / name
            save_tiny(name, tokenizer, made[name])
        return made[name]

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_folder):
    """A function from an architecture's name to a small random model of it, loaded from its folder."""
    return lambda name: load_model(tiny_folder(name), device="cpu")


def save_tiny(name: str, tokenizer, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    tokenizer = wrap(tokenizer.backend_tokenizer, masked=name in MASKED)
    make, options = TINY[name]
    config = make(vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                  pad_token_id=tokenizer.pad_token_id, **options)  # fmt: skip
    torch.manual_seed(0)
    loader = AutoModelForMaskedLM if name in MASKED else AutoModelForCausalLM
    loader.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fact_row(key: str, subject: dict, object_: dict, **more) -> dict:
    """A row of facts.jsonl; names may be given as plain strings."""
    relation = key.split(":")[0]

    def named(value):
        return {code: names if code == "id" or isinstance(names, list) else [names] for code, names in value.items()}

    return {"fact": key, "relation": relation, "subject": named(subject), "object": named(object_)} | more


FACTS = [
    fact_row("capital:FR", {"id": "FR", "en": "France", "de": "Frankreich"}, {"id": "paris", "en": ["Paris", "Paname"], "de": "Paris"}),
    fact_row("capital:RU", {"id": "RU", "en": "Russia", "de": "Russland"}, {"id": "moscow", "en": "Moscow", "de": "Moskau"}),
    fact_row("capital:PE", {"id": "PE", "en": "Peru", "de": "Peru"}, {"id": "lima", "en": "Lima", "de": "Lima"}),
    fact_row("capital:CH", {"id": "CH", "en": "Switzerland", "de": "Schweiz"}, {"id": "bern", "en": "Bern", "de": "Bern"}),
    fact_row("capital:LU", {"id": "LU", "en": "Luxembourg", "de": "Luxemburg"}, {"id": "lux", "en": "Luxembourg", "de": "Luxemburg"},
             leak=["en", "de"]),
]  # fmt: skip
TEMPLATES = [
    {"template": "capital/en/0", "relation": "capital", "language": "en", "text": "The capital of {S} is {O}.", "split": "train"},
    {"template": "capital/en/1", "relation": "capital", "language": "en", "text": "{S} — capital: {O}.", "split": "held_out", "held_out": "core"},
    {"template": "capital/de/0", "relation": "capital", "language": "de", "text": "Hauptstadt von {S}: {O}.", "split": "train"},
]  # fmt: skip
WORDINGS = [
    {"wording": "en/0", "language": "en", "relation": "capital", "instruction": "Name the right line.",
     "question": "What is the capital of {S}?", "options": "{L}: {O}", "cue": "The right line is"},
]  # fmt: skip


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf8")


@pytest.fixture
def benchmark(tmp_path):
    """A function that writes a small benchmark folder, with other rows where given, and returns it."""

    def write(facts=FACTS, templates=TEMPLATES, wordings=WORDINGS) -> Path:
        for name, rows in (("facts", facts), ("templates", templates), ("multiple_choice", wordings)):
            if rows is not None:
                write_rows(tmp_path / f"{name}.jsonl", rows)
        return tmp_path

    return write
