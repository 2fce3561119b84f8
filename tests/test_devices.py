"""The engine keeps its tensors where the model's are: on a pretended device it gives the processor's numbers."""

import numpy as np
import pandas as pd
import pytest
import torch
from pretend_device import Away, pretended
from tiny_models import tiny_model

from knlib.attribution import attribute
from knlib.intervention import effects, scale
from knlib.probe import out_of_memory

QUERIES = pd.DataFrame({
    "query": ["a", "b"], "fact": ["f", "g"], "relation": ["r", "r"], "language": ["en", "en"], "subject": ["kilo", "nu"],
    "prompt": ["bada kilo", "nu"], "space": [""] * 2, "answer": ["pe", "lati"], "suffix": ["."] * 2,
    "alternatives": [["ka"], ["su", "mo"]],
})  # fmt: skip
NEURONS = pd.DataFrame({"fact": ["f", "f", "g"], "layer": [0, 2, 1], "neuron": [3, 7, 11]})
FACTS = pd.DataFrame({"relation": ["r"] * 2, "object": [{"en": ["pe"]}, {"en": ["lati"]}]})


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_the_pretended_device_refuses_what_a_real_one_does(device):
    model = tiny_model("gpt2", dtype=torch.float32)
    with pretended(model.network, device):
        assert model.device.type == device
        here, there = torch.ones(3), torch.ones(3, device=model.device)
        assert type(there[torch.tensor([0, 1])]) is Away and type(here.to(model.device)) is Away
        with pytest.raises(RuntimeError, match="cpu"):
            here + there
        with pytest.raises(RuntimeError, match="cpu"):
            there[torch.tensor([0])] = here[:1]
        with pytest.raises(TypeError):
            there.numpy()
        assert there.cpu().double().numpy().sum() == 3
        if device == "mps":
            with pytest.raises(TypeError, match="float64"):
                there.double()
    assert model.device.type == "cpu"


OPTIONS = [
    {"quadrature": "riemann", "steps": 3, "objective": "margin", "sites": "first"}, {"baseline": "dataset_mean"},
    {"baseline": "mask_words"}, {"method": "gradient_x_activation"}, {"method": "ablation"}, {"engine": "reference"},
]  # fmt: skip


# What a CUDA device refuses, this one does too: the slower options go there only.
@pytest.mark.parametrize(("kind", "device", "options"), [
    *((kind, device, {}) for kind in ("gpt2", "llama", "bloom", "opt", "bert") for device in ("cuda", "mps")),
    *((kind, "mps", options) for kind in ("gpt2", "bert") for options in OPTIONS),
], ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value)  # fmt: skip
def test_attributions(kind, device, options):
    expected = attribute(tiny_model(kind, dtype=torch.float32), QUERIES, **options)
    model = tiny_model(kind, dtype=torch.float32)
    with pretended(model.network, device):
        found = attribute(model, QUERIES, **options)
    assert found.provenance["device"] == device and found.provenance["path"] == expected.provenance["path"]
    assert np.allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-6 * float(np.abs(expected.scores).max()))


@pytest.mark.parametrize("kind", ["gpt2", "bloom", "bert"])
def test_interventions(kind):
    options = {"controls": ("layer_matched", "activation_matched"), "facts": FACTS}
    expected = effects(tiny_model(kind, dtype=torch.float32), QUERIES, NEURONS, **options)
    model = tiny_model(kind, dtype=torch.float32)
    with pretended(model.network, "mps"):
        found = effects(model, QUERIES, NEURONS, **options)
        ids = torch.tensor([[5, 6, 7]], device=model.device)
        with scale(model, [(1, 7)], 2.0, "all"):
            model.network(input_ids=ids)
    assert np.allclose(found["log_p_after"], expected["log_p_after"], atol=1e-5)


@pytest.mark.parametrize(("text", "expected"), [
    ("MPS backend out of memory (MPS allocated: 8 GB)", True), ("CUDA error: out of memory", True),
    ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
    ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", True), ("shapes do not match", False),
])  # fmt: skip
def test_how_devices_say_that_memory_ended(text, expected):
    assert out_of_memory(RuntimeError(text)) is expected
    assert out_of_memory(torch.cuda.OutOfMemoryError("")) and out_of_memory(torch.OutOfMemoryError(""))
