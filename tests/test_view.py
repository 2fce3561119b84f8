"""What a view shows: pictures, tables and words, without an `Output` widget."""

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pandas as pd

from knlib.view import View


def test_things_take_the_place_of_those_before():
    view, figure = View(), plt.figure()
    view.show(figure, pd.DataFrame({"a <b>": [1]}))
    picture, table = view.children
    assert bytes(picture.value[:4]) == b"\x89PNG" and picture.format == "png"
    assert "a &lt;b&gt;" in table.value and "<td>1</td>" in table.value
    assert not plt.fignum_exists(figure.number)
    view.show("error: <new>")
    (words,) = view.children
    assert isinstance(words, widgets.HTML) and words.value == "error: &lt;new&gt;"
