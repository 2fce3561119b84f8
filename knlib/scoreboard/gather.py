"""What a notebook reads: the stored results of a model, or where there are none a few arms run here, on a few edits."""

from dataclasses import replace
from pathlib import Path

from ..result_files import config_hash
from .arms import NONE, Arm
from .grid import all_arms, mean_costs
from .results import RESULTS, ArmResult, configuration, stored_results
from .run import run_arm, unedited
from .study import EditStudy

QUICK = ("rome", "memit", "lafn", "lafn_all", "lafn_random_0", "memit_single", "memit_held_out", "memit_sequence")


def gather(
    study: EditStudy, *, recompute: bool = False, folder: str | Path = RESULTS
) -> tuple[dict[str, ArmResult], str]:
    """Results by arm, and `stored` or `run here`: the arms `QUICK` on the study's edits, one edit where a mode searches per language.

    Raises `InputError` for a stored result of other weights or options.

    Example
    -------
    >>> results, source = gather(load_study(load_model("atlas-gpt2"), split="dev", edits=5))
    >>> source
    'stored'
    """
    known = all_arms(study)
    found = {} if recompute else stored_results(study.model, known, folder)
    if found:
        return found, "stored"
    return {name: run_here(study, known[name]) for name in (NONE, *QUICK)}, "run here"


def run_here(study: EditStudy, arm: Arm) -> ArmResult:
    """An arm's result on the study's edits.

    Example
    -------
    >>> run_here(study, Arm("mine", "rome", {"layer": 2})).scores
    """
    names = study.names[:1] if arm.mode in ("single", "held_out") else study.names
    config = configuration(replace(arm, edits=None), study.model, study.hash)
    provenance = config | {"hash": config_hash(config), "model_name": study.model.name, "edits": names}
    if arm.id == NONE:
        return ArmResult(unedited(study, names), {}, provenance)
    scores, costs = run_arm(study, arm, names)
    return ArmResult(scores, mean_costs(costs.to_dict("records")), provenance)
