"""The store: identical bytes after any number of kills, and no mixing of runs."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_models import tiny_model

import knlib.files
from knlib import attribution_store
from knlib.attribution import attribute
from knlib.attribution_store import attribute_to, open_attributions
from knlib.errors import InputError

SYLLABLES = ["ba", "de", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu"]


def make_queries(facts=12):
    draw = random.Random(0)
    rows = [(f"f{i}|{t}", f"f{i}", f"{''.join(draw.sample(SYLLABLES, 3))} {t}", "", draw.choice(SYLLABLES), ".")
            for i in range(facts) for t in ("ka", "mi so")]  # fmt: skip
    return pd.DataFrame(rows, columns=["query", "fact", "prompt", "space", "answer", "suffix"])


def contents(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(folder).iterdir())}


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def test_dense_store_gives_back_what_attribute_returns(model, tmp_path):
    queries = make_queries()
    found = open_attributions(
        attribute_to(tmp_path / "a", model, queries, facts_per_part=5), model=model, queries=queries
    )
    direct = attribute(model, queries)
    assert found.scores.dims == direct.scores.dims and found.scores.dtype == direct.scores.dtype
    assert np.allclose(found.scores, direct.scores, rtol=1e-9, atol=1e-15)
    for name in ("probability", "completeness_gap", "error_estimate"):
        a, b = getattr(found, name), getattr(direct, name)
        assert a.coords.equals(b.coords) and np.allclose(a, b, rtol=1e-6, atol=1e-9)
    assert {k: found.provenance[k] for k in direct.provenance} == direct.provenance


def test_top_scores_and_the_share_dropped(model, tmp_path):
    queries = make_queries(4)
    found = open_attributions(attribute_to(tmp_path / "a", model, queries, top=5))
    scores = attribute(model, queries).scores
    assert (found.groupby("query").size() == 5).all()
    for query, table in found.groupby("query"):
        own = scores.sel(query=query).values
        assert np.allclose(
            [own[k, n] for k, n in zip(table["layer"], table["neuron"], strict=True)], table["score"], rtol=1e-6
        )
        largest = np.sort(np.abs(own).ravel())[::-1][:5]
        assert np.allclose(np.abs(table["score"]), largest, rtol=1e-6)
        assert table["dropped"].iloc[0] == pytest.approx(1 - largest.sum() / np.abs(own).sum(), rel=1e-6)


# Imports once, then forks a run and kills it, ten times, up to three parts and a random moment after the last kill;
# prints how many parts each left behind.
HOST = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_attribution_store import make_queries
from tiny_models import tiny_model
from knlib.attribution_store import attribute_to

draw, folder = random.Random(1), Path({folder!r})


def parts():
    return len(list(folder.glob("part-*.parquet")))


for kill in range(10):
    wanted = parts() + draw.randrange(4)
    child = os.fork()
    if child == 0:
        attribute_to(folder, tiny_model("llama"), make_queries(25), facts_per_part=1)
        os._exit(0)
    while parts() < wanted:
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(parts(), flush=True)
"""


def test_killed_ten_times_at_random_it_ends_with_the_same_bytes(model, tmp_path):
    code = HOST.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "killed"))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    left = [int(n) for n in found.stdout.split()]
    assert len(left) == 10 and left == sorted(left) and any(0 < n < 25 for n in left)
    queries = make_queries(25)
    resumed = attribute_to(tmp_path / "killed", model, queries, facts_per_part=1)
    assert contents(resumed) == contents(attribute_to(tmp_path / "whole", model, queries, facts_per_part=1))


def test_every_moment_of_a_write_is_safe(model, tmp_path, monkeypatch):
    """Interrupted in the middle of writing, before the rename, or between parts: the same bytes in the end."""
    queries = make_queries(4)
    whole = contents(attribute_to(tmp_path / "whole", model, queries, facts_per_part=1))
    write_table, replace = attribution_store.pq.write_table, os.replace
    for number, moment in enumerate(["half a file", "before the rename", "manifest"]):
        folder = tmp_path / str(number)

        def half(table, path, **options):
            write_table(table, path, **options)
            os.truncate(path, os.path.getsize(path) // 2)
            raise KeyboardInterrupt

        def never(source, target, moment=moment):
            if moment == "manifest" or "part" in str(target):
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patch:
            if moment == "half a file":
                patch.setattr(attribution_store.pq, "write_table", half)
            else:
                patch.setattr(knlib.files.os, "replace", never)
            with pytest.raises(KeyboardInterrupt):
                attribute_to(folder, model, queries, facts_per_part=1)
        assert list(folder.glob(".*.tmp"))
        assert contents(attribute_to(folder, model, queries, facts_per_part=1)) == whole


def test_finished_parts_are_not_computed_again(model, tmp_path, monkeypatch):
    queries = make_queries(6)
    folder = attribute_to(tmp_path / "a", model, queries, facts_per_part=2)
    whole = contents(folder)
    (folder / "part-00001.parquet").unlink()
    seen = []

    def counted(model, part, **options):
        seen.append(part["fact"].unique().tolist())
        return attribute(model, part, **options)

    monkeypatch.setattr(attribution_store, "attribute", counted)
    attribute_to(folder, model, queries, facts_per_part=2)
    assert seen == [["f2", "f3"]] and contents(folder) == whole


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model", {"kind": "gpt2"}),
        ("model_hash", {"seed": 1}),
        ("options.tolerance", {"tolerance": 1e-3}),
        ("options.method", {"method": "activation"}),
        ("options.baseline", {"baseline": np.zeros((3, 24))}),
        ("options.layers", {"layers": [0]}),
        ("queries", {"answer": "ba"}),
        ("top", {"top": 3}),
        ("facts_per_part", {"facts_per_part": 3}),
    ],
)
def test_another_run_is_refused_by_the_name_of_the_difference(model, tmp_path, name, change):
    queries = make_queries(3)
    folder = attribute_to(tmp_path / "a", model, queries)
    before, change = contents(folder), dict(change)
    other = tiny_model(change.pop("kind", "llama"), seed=change.pop("seed", 0))
    if name == "model_hash":
        assert other.name == model.name
    if "answer" in change:
        queries = queries.assign(answer=change.pop("answer"))
    with pytest.raises(InputError, match=rf"a, {name}: found"):
        attribute_to(folder, other, queries, **change)
    assert contents(folder) == before
    attribute_to(folder, other, queries, force=True, **change)
    assert contents(folder) != before


def test_opening_names_what_is_wrong(model, tmp_path):
    queries = make_queries(3)
    folder = attribute_to(tmp_path / "a", model, queries, facts_per_part=1)
    with pytest.raises(InputError, match="model_hash"):
        open_attributions(folder, model=tiny_model("llama", seed=1))
    with pytest.raises(InputError, match="queries"):
        open_attributions(folder, queries=queries[::-1])
    (folder / "part-00002.parquet").unlink()
    with pytest.raises(InputError, match="1 of 3 parts missing"):
        open_attributions(folder)
    with pytest.raises(InputError, match=r"no manifest.json"):
        open_attributions(tmp_path)
    with pytest.raises(InputError, match="dataset_mean"):
        attribute_to(tmp_path / "b", model, queries, baseline="dataset_mean")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="files but no manifest"):
        attribute_to(tmp_path / "c", model, queries, force=True)
