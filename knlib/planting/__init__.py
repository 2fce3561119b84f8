"""Models in which the neurons of some facts are known, because they were added and trained for these facts alone.

`widen` adds neurons to every layer, `load_truth` reads which belong to which fact, `signatures` measures by exact ablation
whether they do, `verdicts` decides.
"""

from .ablation import answer_scores
from .signatures import planted_queries, signatures
from .truth import Truth, load_truth, save_truth
from .verdicts import CHANCE, KNOWN, passed, verdicts
from .widen import neuron_orders, reorder, widen

__all__ = ["CHANCE", "KNOWN", "Truth", "answer_scores", "load_truth", "neuron_orders", "passed", "planted_queries",
           "reorder", "save_truth", "signatures", "verdicts", "widen"]  # fmt: skip
