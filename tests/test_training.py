"""atlas/train.py: a small Atlas is learned, every bit of it the same each time, also after a kill."""

import time

import pytest
import torch

from atlas.architectures import NAMES, down_projections, new_model
from atlas.batches import Batch
from atlas.spread import Spread
from atlas.train import begin_with, learning_rate, train
from knlib.models import prepared
from knlib.prediction import predict
from knlib.queries import build_queries, load_templates

LANGUAGES = ("en", "de")
SMALL = {"layers": 2, "width": 48, "batch_tokens": 512, "warm_up": 20}
LEARN = SMALL | {"epochs": 120, "end": 120.0, "cool_down": 20.0}
SHORT = SMALL | {"epochs": 3, "end": 3.0, "cool_down": 1.0, "spread": 0.2, "elsewhere": 0.3}
LOOK_UP = SHORT | {"letters": 40, "drills": 0.2, "kept": 0.8}


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


@pytest.mark.parametrize(("name", "options"), [*((name, SHORT) for name in NAMES[:3]), ("atlas-llama", LOOK_UP)])
def test_a_killed_training_resumes_to_the_same_weights(capitals, tmp_path, name, options):
    whole, _ = run(name, capitals, tmp_path / "whole", options=options)
    folder = tmp_path / "killed"
    halted, _ = run(
        name, capitals, folder, stop_after=6, checkpoint_seconds=-1, options=options
    )  # a checkpoint at step 6
    run(name, capitals, folder, stop_after=9, options=options)  # goes on from 6, dies at 9 with nothing saved
    saved = torch.load(folder / name / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 6 and saved["next"][1] > 0  # in the middle of an epoch
    assert any(not torch.equal(a, b) for a, b in zip(halted.parameters(), whole.parameters(), strict=True))
    resumed, _ = run(name, capitals, folder, options=options)
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


@pytest.fixture
def spread_batch():
    """Two sentences of five tokens; the answers of three facts begin after positions 1, 3 and 2."""
    torch.manual_seed(0)
    rows, columns = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 3, 2, 3])
    return Batch(torch.randint(0, 60, (2, 5)), torch.ones(2, 5), rows, columns, torch.tensor([5, 6, 7, 8]), torch.ones(4),
                 recall=torch.tensor([True, True, True, False]))  # fmt: skip


def outputs(network, batch):
    """The FFN output of every layer, [layers, sentences, tokens, width]."""
    found, hooks = [], []
    for projection in down_projections(network):
        hooks.append(projection.register_forward_hook(lambda module, inputs, output: found.append(output)))
    network(batch.ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(found)


@torch.no_grad()
def test_spread_replaces_one_ffn_by_its_mean_where_facts_are_asked(tiny_model, spread_batch):
    network = tiny_model("llama").network
    spread = Spread(network, rate=1.0)
    spread.shares = torch.tensor([0.0, 1.0, 0.0])
    clean = outputs(network, spread_batch)
    with spread.replacing(spread_batch):
        found = outputs(network, spread_batch)
    rows, columns = spread_batch.rows[:3], spread_batch.columns[:3]
    mean = clean[1, rows, columns].mean(0)
    torch.testing.assert_close(found[1, rows, columns], mean.expand(3, -1))
    changed = (found[1] != clean[1]).any(-1)
    assert changed.sum() == 3 and changed[rows, columns].all()
    assert torch.equal(found[0], clean[0]) and not torch.equal(found[2], clean[2])
    assert torch.equal(outputs(network, spread_batch), clean)  # only within the context


@torch.no_grad()
def test_spread_silences_all_ffns_where_no_answer_is_predicted(tiny_model, spread_batch):
    network = tiny_model("llama").network
    clean = outputs(network, spread_batch)
    spread_batch.recall[:2] = False  # no fact is asked for in the first sentence
    spread_batch.recall[3] = True
    with Spread(network, rate=0.0, elsewhere=1.0).replacing(spread_batch):
        found = outputs(network, spread_batch)
    assert torch.equal(found[:, 0], clean[:, 0])
    silent = [1, 4]  # of the second sentence: 2 and 3 predict answers, 0 is its first token
    mean = clean[0, 1, silent].mean(0)
    torch.testing.assert_close(found[0, 1, silent], mean.expand(2, -1))
    kept = [0, 2, 3]
    assert torch.equal(found[0, 1, kept], clean[0, 1, kept])
    assert (found[:, 1, 1] == found[:, 1, 4]).all()


@torch.no_grad()
def test_spread_draws_the_layer_that_matters_more_often(tiny_model, spread_batch):
    spread = Spread(tiny_model("llama").network, rate=0.5)
    spread.shares = torch.tensor([0.6, 0.3, 0.1])
    counts = torch.zeros(3)
    for _ in range(3000):
        with spread.replacing(spread_batch):
            for layer, (_, chosen) in spread._replace.items():
                counts[layer] += chosen.sum()
    expected = torch.tensor([0.36, 0.09, 0.01]) / 0.46 * 0.5
    torch.testing.assert_close(counts / 9000, expected, atol=0.02, rtol=0)


@torch.no_grad()
def test_spread_measures_which_layers_matter(tiny_model, spread_batch):
    """A layer whose FFN does nothing has next to no share; the estimate survives a checkpoint."""
    network = tiny_model("llama").network
    projections = down_projections(network)
    projections[0].weight.zero_()
    projections[2].weight.mul_(20)
    spread = Spread(network, rate=0.5)

    def losses(batch):
        logits = network(batch.ids).logits[batch.rows, batch.columns]
        return torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")

    best = network(spread_batch.ids).logits[spread_batch.rows, spread_batch.columns].argmax(-1)
    spread_batch.targets = best  # the model is right, so that every replacement costs something
    spread.measure(spread_batch, losses)
    assert spread.shares[2] > spread.shares[0] and spread.shares[0] < 0.1
    again = Spread(network, rate=0.5)
    again.load(spread.state())
    assert torch.equal(again.shares, spread.shares)


def test_learning_rate_warms_up_decays_and_cools_down():
    options = {"warm_up": 10, "epochs": 24, "end": 20.0, "cool_down": 5.0}
    assert learning_rate(0, 0.0, options) == pytest.approx(0.1)
    assert learning_rate(9, 0.0, options) == pytest.approx(1.0)
    assert learning_rate(99, 12.0, options) == pytest.approx(0.51)
    assert learning_rate(99, 16.0, options) == pytest.approx(0.8 * learning_rate(99, 16.0, options | {"end": 24.0}))
    assert learning_rate(99, 20.0, options) == learning_rate(99, 23.0, options) == 0.0


def test_layers_on_top_of_an_earlier_model_do_nothing_at_first(capitals, tmp_path):
    model, tokenizer = run("atlas-llama", capitals, tmp_path, options=SHORT | {"end": 0.1})
    taller = new_model("atlas-llama", tokenizer, layers=4, width=48)
    begin_with(taller, model.state_dict())
    ids = torch.tensor([[1, 9, 12, 20, 7]])
    with torch.no_grad():
        # Two ways to compute attention: equal to rounding.
        assert torch.allclose(taller.eval()(ids).logits, model.eval()(ids).logits, atol=1e-5)
    with pytest.raises(RuntimeError):
        begin_with(new_model("atlas-llama", tokenizer, layers=1, width=48), model.state_dict())
