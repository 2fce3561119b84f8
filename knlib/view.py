"""What a view shows under its controls: figures as pictures, tables and words as HTML.

Not an `Output` widget: what is displayed in one goes to and fro between kernel and client while the cell runs, on which the
runners of notebooks sometimes wait for ever (github.com/jupyter/nbclient/issues/312).
"""

import html
import io

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure


class View(widgets.VBox):
    """The place of a view's figures and tables; `show` puts others in.

    Example
    -------
    >>> view = View()
    >>> view.show(figure, table)
    """

    def show(self, *things: Figure | pd.DataFrame | str) -> None:
        """Show these and nothing else; figures are closed."""
        self.children = tuple(_widget(thing) for thing in things)


def _widget(thing: Figure | pd.DataFrame | str) -> widgets.Widget:
    if isinstance(thing, Figure):
        picture = io.BytesIO()
        thing.savefig(picture, format="png", bbox_inches="tight")
        plt.close(thing)
        return widgets.Image(
            value=picture.getvalue(), format="png", layout={"max_width": "100%", "object_fit": "contain"}
        )
    if isinstance(thing, pd.DataFrame):
        return widgets.HTML(thing.to_html(border=0))
    return widgets.HTML(html.escape(thing))
