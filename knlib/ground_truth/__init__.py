"""Who is right? Localizers against the neurons that were planted, and against exact ablation.

`run_scoreboard` scores every method of the registries, `load_results` reads the tables, `questions` says what follows from them.
"""

from .oracle import ablation_oracle, pair_interactions
from .results import load_results
from .study import GroundStudy, load_study

__all__ = ["GroundStudy", "ablation_oracle", "load_results", "load_study", "pair_interactions"]
