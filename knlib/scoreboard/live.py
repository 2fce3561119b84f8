"""One edit at a time, live: what every language says before it and under it, and a view to try others."""

from contextlib import nullcontext

import ipywidgets as widgets
import numpy as np
import pandas as pd

from ..edit_effects import ask, effects
from ..edit_set import LOCALITY
from ..editing.registry import Change, find_change
from ..errors import InputError, Literal
from ..models import Model
from ..prediction import score_answers
from ..view import View
from .arms import Arm
from .plots import probability_lines
from .study import EditStudy


def probabilities(model: Model, requests: pd.DataFrame, change: Change | None = None) -> pd.DataFrame:
    """P(old answer) and P(new answer) of every request, without a change or under it: `language`, `p_old`, `p_new`.

    A probability is the product of an answer's tokens'.

    Example
    -------
    >>> probabilities(model, requests, change)["p_new"].round(2).tolist()
    """
    asked = requests if change is None else change.queries(requests)
    with nullcontext() if change is None else change.applied(model):
        old, new = (score_answers(model, asked["prompt"], asked["space"], asked[name], asked["suffix"])
                    for name in ("answer", "new"))  # fmt: skip
    return pd.DataFrame({"language": requests["language"].to_numpy(), "p_old": np.exp(old), "p_new": np.exp(new)})


def before_and_under(model: Model, requests: pd.DataFrame, change: Change) -> pd.DataFrame:
    """`probabilities` `before`, `inside` and `after` the change (column `when`): the last are the first, bit for bit.

    Example
    -------
    >>> before_and_under(model, requests, change).groupby("when")["p_new"].mean()
    """
    parts = {"before": probabilities(model, requests), "inside": probabilities(model, requests, change)}
    parts["after"] = probabilities(model, requests)
    return pd.concat([table.assign(when=when) for when, table in parts.items()], ignore_index=True)


def with_new_object(study: EditStudy, edit: str, new: str) -> pd.DataFrame:
    """The requests of an edit with another new object: a name of an object of the relation, in any language, or any text.

    A known object has its name in every language, any other text is taken as it is in all of them. Raises `InputError`
    for an empty text and one that is the old answer.

    Example
    -------
    >>> with_new_object(study, study.names[0], "Paris")["new"].tolist()[:2]
    """
    requests, plain = study.requests([edit]), new.strip()
    own = study.facts[study.facts["relation"] == requests["relation"].iloc[0]]
    names = next((o for o in own["object"] if any(plain in spelled for spelled in o.values())), None)
    found = [plain if names is None else names[code][0] for code in requests["language"]]
    if not plain or any(name == old for name, old in zip(found, requests["answer"], strict=True)):
        raise InputError("new object", found=new, expected="another answer than the old one")
    return requests.assign(new=found)


def neighbours(study: EditStudy, edit: str, change: Change) -> pd.DataFrame:
    """How many of an edit's neighbours keep their answer under a change, by kind: `kind`, `questions`, `same`.

    Example
    -------
    >>> neighbours(study, study.names[0], change)
    """
    asked = study.questions[(study.questions["edit"] == edit) & study.questions["kind"].isin(LOCALITY)]
    asked, model = asked.reset_index(drop=True), study.model
    before = ask(model, asked)
    with change.applied(model):
        found = effects(asked, before, ask(model, change.queries(asked)))
    return (
        found.groupby("kind", sort=False)["same"]
        .agg(["size", "mean"])
        .set_axis(["questions", "same"], axis=1)
        .reset_index()
    )


def explore_edits(study: EditStudy, arms: dict[str, Arm]) -> widgets.VBox:
    """Choose an edit, an editor and the languages that are edited, type a new object, and watch all languages and the neighbours.

    `arms`: those of `knlib.scoreboard.arms` to choose from, in the mode `simultaneous`.

    Example
    -------
    >>> explore_edits(study, {name: arms(model)[name] for name in ("rome", "lafn_all")})  # doctest: +SKIP
    """
    shown = study.edits.requests.drop_duplicates("edit").set_index("edit")
    options = [(f"{row.relation}: {row.subject} ({row.answer})", row.Index) for row in shown.itertuples()]
    codes = list(study.edits.requests["language"].unique())
    edit = widgets.Dropdown(options=options, description="fact")
    new = widgets.Text(value=shown["new"].iloc[0], description="new object", continuous_update=False)
    editor = widgets.Dropdown(options=list(arms), description="editor")
    languages = widgets.SelectMultiple(options=codes, value=codes[:1], rows=4, description="edited in")
    button, view = widgets.Button(description="edit"), View()

    def show() -> None:
        requests = with_new_object(study, edit.value, new.value)
        own = requests[requests["language"].isin(languages.value)].reset_index(drop=True)
        if own.empty:
            raise InputError("edited in", found=Literal("nothing"), expected="one language or more")
        arm = arms[editor.value]
        change = find_change(arm.editor, study.model, own, **study.inputs(arm, own))
        figure = probability_lines(before_and_under(study.model, requests, change))
        view.show(figure, neighbours(study, edit.value, change))

    def click(_=None) -> None:
        try:
            show()
        except InputError as error:
            view.show(f"error: {error}")

    edit.observe(lambda change: setattr(new, "value", shown.at[change["new"], "new"]), "value")
    button.on_click(click)
    return widgets.VBox([widgets.HBox([edit, new]), widgets.HBox([editor, languages, button]), view])
