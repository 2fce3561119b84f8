"""atlas/train.py: a small Atlas is learned, every bit of it the same each time, also after a kill."""

import time

import pytest
import torch

from atlas.architectures import NAMES, down_projections
from atlas.train import drop_ffn, learning_rate, train
from knlib.models import prepared
from knlib.prediction import predict
from knlib.queries import build_queries, load_templates

LANGUAGES = ("en", "de")
SMALL = {"layers": 2, "width": 48, "batch_tokens": 512, "warm_up": 20, "ffn_drop": 0.1, "letters": False}
LEARN = SMALL | {"epochs": 80, "end": 80.0, "cool_down": 10.0, "ffn_drop_epochs": 40, "bf16": False}
SHORT = SMALL | {"epochs": 3, "end": 3.0, "cool_down": 1.0, "ffn_drop_epochs": 2}


@pytest.fixture(scope="module")
def capitals(facts):
    """20 capitals that English and German are both taught, in all trained phrasings."""
    free = [
        row.relation == "capital"
        and row.half == 0
        and not row.withheld
        and not {*LANGUAGES} & {*row.leak, *row.ambiguous}
        for row in facts.itertuples()
    ]
    return facts[free].head(20).reset_index(drop=True)


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are bit for bit the same for the same number of threads only; these models need no second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(name, facts, folder, *, options=SHORT, **more):
    model, tokenizer = train(name, facts, out=folder / name, languages=LANGUAGES, options=options, vocabulary=600,
                             log=lambda line: None, **more)  # fmt: skip
    return model, tokenizer


def assert_same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_twenty_facts_in_two_languages_are_learned_within_a_minute(capitals, tmp_path):
    assert len(capitals) == 20
    start = time.process_time()
    model, tokenizer = run("atlas-llama", capitals, tmp_path, options=LEARN)
    assert time.process_time() - start < 60
    queries, _ = build_queries(capitals, load_templates(languages=LANGUAGES), splits=("train",))
    found = predict(prepared("small", model, tokenizer, "causal"), queries, capitals)
    accuracy = found["correct"].groupby(queries["language"]).mean()
    assert len(queries) == 20 * 18 * 2
    assert (accuracy > 0.95).all(), accuracy


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_training_resumes_to_the_same_weights(capitals, tmp_path, name):
    whole, _ = run(name, capitals, tmp_path / "whole")
    folder = tmp_path / "killed"
    halted, _ = run(name, capitals, folder, stop_after=6, checkpoint_seconds=-1)  # a checkpoint at step 6
    run(name, capitals, folder, stop_after=9)  # goes on from 6, dies at 9 with nothing saved
    saved = torch.load(folder / name / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 6 and saved["next"][1] > 0  # in the middle of an epoch
    assert any(not torch.equal(a, b) for a, b in zip(halted.parameters(), whole.parameters(), strict=True))
    resumed, _ = run(name, capitals, folder)
    assert_same_weights(resumed, whole)
    assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "whole" / "tokenizer.json").read_bytes()


def test_a_finished_training_is_not_trained_again(capitals, tmp_path):
    first, _ = run("atlas-gpt2", capitals, tmp_path)
    assert_same_weights(run("atlas-gpt2", capitals, tmp_path)[0], first)


def test_another_seed_gives_other_weights(capitals, tmp_path):
    a, _ = run("atlas-llama", capitals, tmp_path / "a", stop_after=1)
    b, _ = run("atlas-llama", capitals, tmp_path / "b", stop_after=1, options=SHORT | {"seed": 1})
    assert not torch.equal(a.lm_head.weight[:500], b.lm_head.weight[:500])


def test_a_checkpoint_of_other_options_is_refused(capitals, tmp_path):
    run("atlas-llama", capitals, tmp_path, stop_after=1, checkpoint_seconds=-1)
    with pytest.raises(SystemExit, match=r"checkpoint.pt: found options .*'epochs': 3.*, expected .*'epochs': 4"):
        run("atlas-llama", capitals, tmp_path, options=SHORT | {"epochs": 4})


def test_ffn_drop_silences_early_layers_more_until_its_hooks_go(tiny_model):
    network = tiny_model("llama").network
    hooks = drop_ffn(network, 0.6)
    torch.manual_seed(0)
    x = torch.randn(1, 1, 40).expand(4000, 1, 40)  # one sentence 4,000 times
    for projection, share in zip(down_projections(network), (0.6, 0.4, 0.2), strict=True):
        plain = torch.nn.functional.linear(x, projection.weight)
        found = projection(x)
        silent = (found == 0).all(-1).squeeze()
        assert silent.float().mean().item() == pytest.approx(share, abs=0.03)
        torch.testing.assert_close(found[~silent], plain[~silent] / (1 - share))
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(projection(x), plain)


def test_learning_rate_warms_up_decays_and_cools_down():
    options = {"warm_up": 10, "epochs": 24, "end": 20.0, "cool_down": 5.0}
    assert learning_rate(0, 0.0, options) == pytest.approx(0.1)
    assert learning_rate(9, 0.0, options) == pytest.approx(1.0)
    assert learning_rate(99, 12.0, options) == pytest.approx(0.51)
    assert learning_rate(99, 16.0, options) == pytest.approx(0.8 * learning_rate(99, 16.0, options | {"end": 24.0}))
    assert learning_rate(99, 20.0, options) == learning_rate(99, 23.0, options) == 0.0
