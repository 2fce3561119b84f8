"""The ways to score neurons, for some sites at a time: integrated gradients, simpler methods, exact ablation."""

from collections.abc import Callable
from zlib import crc32

import numpy as np
import torch

from .baselines import path_starts
from .errors import InputError
from .models import Model
from .probe import best_plan
from .quadrature import integrate_adaptive, integrate_fixed, objective_points
from .reference import PathBatch, ReferenceBatch
from .sites import Site
from .staircase import StaircaseBatch

# Of `ig`, with w the neurons and b the baseline: times w - b along b to w; as the SIG code, times w along it; as the AMIG
# code, times w along 0 to w - b.
FORMULAS = ("difference", "neurons", "shifted")
METHODS = ("ig", "gradient_x_activation", "activation", "ablation", "random")
ENGINES = ("auto", "fast", "reference")
# Rows times tokens of one pass; beyond it a CPU gets slower per row. A GPU takes more, and halves it when memory ends.
ROWS = {"cpu": 4096, "cuda": 65536, "mps": 16384}


def _engine(model: Model, layers: list[int], engine: str) -> Callable[..., PathBatch]:
    plan = None if engine == "reference" else best_plan(model)
    if plan is not None:
        return lambda sites, objective, rows: StaircaseBatch(model, sites, layers, objective, plan, rows)
    if engine == "fast":
        raise InputError("engine", found="fast", expected=f"auto: no fast path is exact for {model.name}")
    return lambda sites, objective, rows: ReferenceBatch(model, sites, layers, objective, min(rows, 64))


class Scorer:
    """Scores some sites at a time, within a budget that shrinks when memory runs out."""

    def __init__(self, model: Model, layers: list[int], options: dict, start: torch.Tensor | None):
        self.model, self.layers, self.options, self.start = model, layers, options, start
        self.make = _engine(model, layers, options["engine"])
        self.rows, self.sites = ROWS.get(model.device.type, 4096), 10**9

    def halve(self, used: int) -> bool:
        """A smaller budget: fewer rows a pass first, then fewer sites; False where nothing is left to give."""
        if self.rows > 64:
            self.rows //= 2
        elif used > 1:
            self.sites = used // 2
        else:
            return False
        return True

    def release(self) -> None:
        """Give what a failed pass had reserved back to the device; after its error, which holds its tensors, is gone."""
        if self.model.device.type in ("cuda", "mps"):
            getattr(torch, self.model.device.type).empty_cache()

    def score(self, sites: list[Site]):
        """Scores [sites, layers, neurons], log-probabilities [sites], changes and absolute errors [sites, layers]."""
        objective = self.options["objective"]
        batch = self.make(sites, objective, self.rows)
        method = self.options["method"]
        scores, changes, errors = self._scores(batch, sites, method)
        # After the scores: where their paths end at the model as it is, its values are known.
        log_p = batch.log_values
        if objective == "margin":
            log_p = self.make(sites, "logprob", self.rows).log_values
        return scores, log_p, changes, errors

    def _scores(self, batch: PathBatch, sites: list[Site], method: str):
        """As `score`, without log-probabilities."""
        unknown = np.full((len(sites), len(self.layers)), np.nan)
        if method == "activation":
            return batch.neurons.cpu().numpy(), unknown, unknown
        if method == "random":
            shape = batch.neurons.shape[1:]
            # By what is asked, not by where in the table: parts of a store draw what the whole would.
            seeds = [[self.options["seed"], crc32(repr((site.ids, site.target)).encode())] for site in sites]
            draws = [np.random.default_rng(seed).normal(size=shape) for seed in seeds]
            return np.stack(draws), unknown, unknown
        owner, begin = path_starts(self.model, sites, batch.neurons, self.options["baseline"], self.start, self.layers)
        if self.options["formula"] == "shifted" and begin is not None:
            batch.set_paths(owner, None, batch.neurons[torch.tensor(owner)] - begin)
        else:
            batch.set_paths(owner, begin)
        if method == "ablation":
            scores, changes, errors = self._ablation(batch), None, None
        elif method == "gradient_x_activation":
            scores, changes, errors = self._end_gradient(batch), None, None
        else:
            scores, changes, errors = self._integrated(batch)
        share = np.zeros((len(sites), len(owner)))
        share[owner, np.arange(len(owner))] = 1
        share /= share.sum(1, keepdims=True)
        mean = np.tensordot(share.astype(scores.dtype), scores, axes=1)
        if changes is None:
            return mean, unknown, unknown
        return mean, share @ changes, share @ errors

    def _integrated(self, batch: PathBatch):
        if self.options["quadrature"] == "adaptive":
            integral = integrate_adaptive(batch, self.options["tolerance"])
        else:
            integral = integrate_fixed(batch, self.options["quadrature"], self.options["steps"])
        times = batch.difference_neurons
        if self.options["formula"] != "difference":
            times = lambda k: batch.neurons[batch.owner, k]  # noqa: E731
        scores = [times(k) * batch.project(k, integral.gradient[:, k]) for k in range(len(self.layers))]
        return torch.stack(scores, 1).cpu().numpy(), integral.end - integral.start, integral.error

    def _end_gradient(self, batch: PathBatch) -> np.ndarray:
        paths, layers = len(batch.owner), len(self.layers)
        p, k = (x.ravel() for x in np.meshgrid(np.arange(paths), np.arange(layers), indexing="ij"))
        _, gradients = objective_points(*batch.measure(p, k, np.ones(len(p))), batch.objective)
        gradients = gradients.view(paths, layers, -1)
        scores = [batch.difference_neurons(i) * batch.project(i, gradients[:, i]) for i in range(layers)]
        return torch.stack(scores, 1).cpu().numpy()

    def _ablation(self, batch: PathBatch) -> np.ndarray:
        scores = np.empty(batch.begin.shape)
        value = np.exp if batch.objective == "prob" else np.asarray
        for p, site in enumerate(batch.owner.tolist()):
            for k in range(len(self.layers)):
                scores[p, k] = value(batch.log_values[site]) - value(batch.ablate(site, k, batch.begin[p, k]))
        return scores
