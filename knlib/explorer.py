"""Interactive views for notebooks: choose something, see it in every language."""

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display

from .models import Model
from .plots import fact_bars
from .prediction import predict
from .queries import build_queries


def fact_in_all_languages(model: Model, facts: pd.DataFrame, templates: pd.DataFrame, fact: str) -> pd.DataFrame:
    """Predictions for one fact under every template given: `language`, `prompt`, `prediction`, `p_answer`, ...

    Returns one row per query, in the order of the templates; no row in a language where a gate refuses the fact.
    """
    rows = facts[facts["fact"] == fact]
    relation = rows["relation"].iloc[0]
    queries, _ = build_queries(rows, templates[templates["relation"] == relation])
    found = predict(model, queries, facts)
    return queries[["language", "template", "prompt", "answer"]].join(found.drop(columns="query"))


def explore_facts(model: Model, facts: pd.DataFrame, templates: pd.DataFrame) -> widgets.VBox:
    """Two menus (relation, fact) over bars of P(answer) in every language and a table of what was answered.

    Example
    -------
    >>> explore_facts(load_model("atlas-llama"), *load_atlas())  # doctest: +SKIP
    """
    relation = widgets.Dropdown(options=list(facts["relation"].unique()), description="relation")
    fact = widgets.Dropdown(description="fact")
    output = widgets.Output()

    def list_facts(_=None):
        rows = facts[facts["relation"] == relation.value]
        first = next(iter(rows["subject"].iloc[0]))
        names = [(f"{row.subject[first][0]} – {row.object[first][0]}", row.fact) for row in rows.itertuples()]
        fact.options = sorted(names)

    def show(_=None):
        if fact.value is None:
            return
        table = fact_in_all_languages(model, facts, templates, fact.value)
        figure = fact_bars(table, f"{fact.value} · {model.name}")
        answers = table.groupby("language", sort=False)[["answer", "prediction"]].agg(lambda s: s.mode().iloc[0])
        with output:
            output.clear_output(wait=True)
            display(figure)
            display(answers.T)
        plt.close(figure)

    relation.observe(list_facts, "value")
    fact.observe(show, "value")
    list_facts()
    show()
    return widgets.VBox([widgets.HBox([relation, fact]), output])
