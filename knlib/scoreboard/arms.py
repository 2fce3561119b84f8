"""The arms of the scoreboard as data: an editor with its options, in one of five modes, on a number of edits."""

from dataclasses import dataclass, field, replace

from ..editing.lafn_locate import LocateOptions
from ..editing.lafn_values import ShiftOptions
from ..editing.values import ValueOptions
from ..models import Model

MODES = ("simultaneous", "single", "held_out", "sequence", "ablation")
LENGTHS = (1, 10, 100)  # of the sequences
FEW, FEWER = 20, 10  # edits of the controls; of LAFN's ablations, and of the modes that search once per language
SEEDS = 5  # of the random neurons
NONE = "none"  # the unedited model's row


@dataclass(frozen=True)
class Arm:
    """`id`: name of the result; `options`: the editor's, beside what the study gives it (texts, contexts ...).

    `mode`: `simultaneous`, requests in all languages at once; `single`, one language at a time, asked in all;
    `held_out`, all but one language, asked in that one; `sequence`, 1, 10 and 100 edits one after another;
    `ablation`: as `simultaneous`, beside the arm of which one thing is changed. `edits`: the
    first so many of the study's (None: all); `contexts`: trained paraphrases per language that an edit sees.
    """

    id: str
    editor: str
    options: dict = field(default_factory=dict)
    mode: str = "simultaneous"
    edits: int | None = None
    contexts: int = 0


def arms(model: Model) -> dict[str, Arm]:
    """All arms for a model, by id. Layers are shares of its depth, chosen on the dev edits of the Atlas models.

    Example
    -------
    >>> list(arms(load_model("atlas-gpt2")))[:3]
    ['ft_l', 'ft_m', 'kn']
    """

    def at(*shares: float) -> list[int]:
        return sorted({min(model.n_layers - 1, int(share * model.n_layers)) for share in shares})

    early, middle = at(0.125, 0.25, 0.375), at(0.5)[0]
    # Upstream's rates and boxes do nothing on the Atlas models.
    tuned = {"layer": model.n_layers - 1, "lr": 3e-3, "box": None}
    turned = {"l1": 0.5, "l2": 3.0}
    value = ValueOptions(steps=40, lr=1.0, clamp=8.0)
    # A step of Adam moves every neuron by the rate: few neurons need a larger one to get as far.
    shift = ShiftOptions(steps=25, lr=4.0, clamp=8.0)
    lafn = {"layers": list(range(model.n_layers)), "value": shift}
    base = [
        Arm("ft_l", "ft_l", tuned),
        Arm("ft_m", "ft_m", tuned),
        Arm("kn", "kn", turned),
        Arm("cas", "cas", turned),
        Arm("rome", "rome", {"layer": early[0], "value": replace(value, clamp=20.0), "together": True}),
        Arm("memit", "memit", {"layers": early, "lam": 100.0, "value": value}),
        Arm("alphaedit", "alphaedit", {"layers": early, "ridge": 0.1, "value": value}),
        Arm("langedit", "langedit", {"layers": early, "ridge": 0.1, "value": value}, edits=FEW),
        Arm("grace", "grace", {"layer": middle, "eps": 60.0}),
        Arm("ike", "ike"),
        Arm("lafn", "lafn", lafn | {"neurons": "located"}, contexts=1),
        Arm("lafn_all", "lafn", lafn | {"neurons": "all", "value": replace(shift, lr=0.5)}, contexts=1),
        # On development edits of atlas-llama more steps reach most, a higher rate less; a wider clamp adds nothing.
        Arm("lafn_all_40", "lafn", lafn | {"neurons": "all", "value": replace(shift, lr=0.5, steps=40)}, contexts=1),
    ]
    controls = [
        Arm(f"lafn_{kind}", "lafn", lafn | {"neurons": kind}, edits=FEW, contexts=1)
        for kind in ("union", "per_language")
    ]
    controls += [Arm(f"lafn_random_{seed}", "lafn", lafn | {"neurons": "random", "seed": seed}, edits=FEW, contexts=1)
                 for seed in range(SEEDS)]  # fmt: skip
    third = model.n_layers // 3
    # What the paper leaves open, changed one at a time.
    ablated = {
        "no_paraphrases": ({}, 0), "paraphrases_4": ({}, 4),
        "frequency": ({"locate": LocateOptions(kappa=1.0)}, 1), "magnitude": ({"locate": LocateOptions(tau=0.0)}, 1),
        "few_neurons": ({"locate": LocateOptions(most=0.005)}, 1), "many_neurons": ({"locate": LocateOptions(most=0.1)}, 1),
        "early": ({"layers": list(range(third))}, 1), "late": ({"layers": list(range(model.n_layers - third, model.n_layers))}, 1),
    }  # fmt: skip
    ablations = [Arm(f"lafn_{name}_ablation", "lafn", lafn | {"neurons": "located"} | options, "ablation", FEWER, contexts)
                 for name, (options, contexts) in ablated.items()]  # fmt: skip
    by_id = {arm.id: arm for arm in base}
    modes = [replace(by_id[name], id=f"{name}_{mode}", mode=mode, edits=FEWER)
             for mode in ("single", "held_out") for name in ("rome", "memit", "lafn_all")]  # fmt: skip
    sequences = [replace(by_id[name], id=f"{name}_sequence", mode="sequence", edits=max(LENGTHS), options=by_id[name].options | more)
                 for name, more in (("ft_m", {}), ("rome", {"together": False}), ("memit", {"batch": 1}), ("alphaedit", {"batch": 1}),
                                    ("grace", {}), ("lafn_all", {}))]  # fmt: skip
    return {arm.id: arm for arm in (*base, *controls, *ablations, *modes, *sequences)}
