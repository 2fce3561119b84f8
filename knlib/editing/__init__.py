"""Editors: a change of a model is found, applied within a `with` block, and undone exactly, also after an exception.

Edits of neurons' columns (`value_edit`, `rank_one_edit`, `scale_columns`, ...) are context managers of their own.
Editors of the registry answer edit requests, one fact in several languages (`requests`): `find_change` and `edit` by
name, a `WeightChange` to save and apply again. Every module of this folder is imported, and registers its editors; a
file added to it appears in `EDITORS`, and with that in every comparison.
"""

from importlib import import_module
from pkgutil import iter_modules

from .changes import WeightChange, load_change
from .neurons import answer_directions, enhance, scale_columns, suppress, value_edit
from .rank_one import prompt_keys, rank_one_edit
from .registry import EDITORS, Change, edit, find_change, register
from .requests import REQUEST_COLUMNS, check_requests, prompt_rows, with_prefixes
from .values import ValueOptions

__all__ = ["EDITORS", "REQUEST_COLUMNS", "Change", "ValueOptions", "WeightChange", "answer_directions", "check_requests",
           "edit", "enhance", "find_change", "load_change", "prompt_keys", "prompt_rows", "rank_one_edit", "register",
           "scale_columns", "suppress", "value_edit", "with_prefixes"]  # fmt: skip

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
