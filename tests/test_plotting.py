import builtins
import importlib
import sys

import pytest

from lightning_effcx.plotting import Figure, label_logarithms, save_figure


def test_missing_matplotlib_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    monkeypatch.delitem(sys.modules, "lightning_effcx.plotting")
    message = r"^Plots need matplotlib\. Install it with `pip install 'lightning-effcx\[plot\]'`\.$"
    with pytest.raises(ImportError, match=message):
        importlib.import_module("lightning_effcx.plotting")


def test_other_formats_go_by_the_suffix(tmp_path):
    save_figure(Figure(), tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="Format 'docx' is not supported"):
        save_figure(Figure(), tmp_path / "plot.docx")


def test_a_logarithmic_axis_names_values_that_occur_where_there_is_room():
    axes = Figure().add_subplot()
    label_logarithms(axes, "x", [12, 1, 2, 13, 100])
    label_logarithms(axes, "y", [0.5])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "12", "100"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.5"]


def test_a_small_logarithmic_axis_names_fewer_values():
    small, large = (Figure((width, 4)).add_subplot() for width in (2, 6))
    for axes in (small, large):
        label_logarithms(axes, "x", [2**i for i in range(11)])
    labels = [label.get_text() for label in large.get_xticklabels()]
    assert labels == [str(2**i) for i in range(11)]
    assert [label.get_text() for label in small.get_xticklabels()] == labels[::3]
