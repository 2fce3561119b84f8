"""Editors: context managers over the weights that apply a change and undo it exactly, also after an exception.

An editor's signature is `(model, edits, ...)`; `edits` has one row per fact and language asked: a query row with the new
answer in the column `new` (`knlib.counterfactuals.with_new_objects`).
"""

from .neurons import answer_directions, enhance, scale_columns, suppress, value_edit
from .rank_one import prompt_keys, rank_one_edit

__all__ = ["answer_directions", "enhance", "prompt_keys", "rank_one_edit", "scale_columns", "suppress", "value_edit"]
