"""Interactive views for notebooks: choose something, see it in every language."""

import ipywidgets as widgets
import pandas as pd

from .cross_lingual import shared_facts, shared_neurons
from .cross_lingual_plots import shared_pair
from .effects import effects
from .errors import InputError, Literal
from .models import Model
from .neuron_plots import scaled_bars
from .plots import by_script, fact_bars
from .prediction import predict
from .queries import build_queries
from .view import View


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
    view = View()

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
        view.show(figure, answers.T)

    relation.observe(list_facts, "value")
    fact.observe(show, "value")
    list_facts()
    show()
    return widgets.VBox([widgets.HBox([relation, fact]), view])


def scaled_in_all_languages(
    model: Model, queries: pd.DataFrame, neurons: pd.DataFrame, factors: list[float], *, condition: str = "neurons"
) -> pd.DataFrame:
    """P(answer) with a fact's neurons scaled: factors x languages, means over the queries of each language.

    `queries`: those of one fact. `neurons`: as in `knlib.effects.effects`. `condition`: `neurons`, or the name of a
    control whose neurons are scaled in their place. Raises `InputError` where there is no query.

    Example
    -------
    >>> scaled_in_all_languages(model, queries, neurons, [0, 1, 2]).loc[0, "en"]  # doctest: +SKIP
    """
    if not len(queries):
        raise InputError("queries", found=Literal("an empty table"), expected="queries of one fact")
    language = queries.set_index("query")["language"]
    rows = {}
    for factor in factors:
        controls = () if condition == "neurons" else (condition,)
        found = effects(model, queries, neurons, factor=factor, controls=controls)
        found = found[found["condition"] == condition]
        rows[factor] = found.groupby(found["query"].map(language))["p_after"].mean()
    table = pd.DataFrame(rows).T
    return table[by_script(table.columns)].rename_axis(index="factor", columns="language")


def scale_explorer(model: Model, queries: pd.DataFrame, neurons: pd.DataFrame) -> widgets.VBox:
    """A menu of facts and a slider for the scale of their neurons, over bars of P(answer) in every language.

    `queries`: of all facts offered; `neurons`: columns `fact` (and `language`), `layer`, `neuron`.

    Example
    -------
    >>> scale_explorer(model, held_out, neurons)  # doctest: +SKIP
    """
    names = [fact for fact in dict.fromkeys(neurons["fact"]) if fact in set(queries["fact"])]
    fact = widgets.Dropdown(options=names, description="fact")
    # The bars follow when the slider is let go: every step costs a pass over all queries.
    factor = widgets.FloatSlider(value=0, min=0, max=4, step=0.25, description="scale", continuous_update=False)
    view = View()

    def show(_=None):
        rows = queries[queries["fact"] == fact.value]
        table = scaled_in_all_languages(model, rows, neurons, [1.0, factor.value])
        shown = pd.DataFrame({"before": table.iloc[0], "after": table.loc[factor.value]})
        figure = scaled_bars(shown, f"{fact.value} · neurons × {factor.value:g} · {model.name}")
        view.show(figure)

    fact.observe(show, "value")
    factor.observe(show, "value")
    show()
    return widgets.VBox([widgets.HBox([fact, factor]), view])


def pair_explorer(neurons: pd.DataFrame, facts: pd.DataFrame, languages: list[str], layers: int) -> widgets.VBox:
    """Two menus of languages over the neurons that both have for a fact, by layer and by fact, and a table of these facts.

    `neurons`: of `knlib.localization.localize`; `facts`: those located, rows of the benchmark's table.

    Example
    -------
    >>> pair_explorer(table, chosen, ["en", "de", "ja"], model.n_layers)  # doctest: +SKIP
    """
    codes = by_script(languages)
    menus = [
        widgets.Dropdown(options=codes, value=codes[i], description=name) for i, name in ((0, "one"), (-1, "other"))
    ]
    view = View()

    def show(_=None):
        a, b = (menu.value for menu in menus)
        shared = shared_neurons(neurons, a, b)
        figure = shared_pair(shared, list(facts["fact"]), layers, f"{a} and {b}: shared neurons")
        view.show(figure, shared_facts(shared, facts, a, b))

    for menu in menus:
        menu.observe(show, "value")
    show()
    return widgets.VBox([widgets.HBox(menus), view])
