import numpy as np

from cryoloom.contract import Figure
from cryoloom.project.figures import load_figures, save_figure


def test_a_figure_comes_back_as_it_was(tmp_path):
    x = np.linspace(0, 1, 5)
    figure = Figure(
        name="fsc",
        kind="curves",
        title="FSC",
        caption="Two halves",
        x_label="1/Å",
        data={"x": x, "y": {"masked / tight": x**2, "plain": x}, "lines": {"0.143": 0.143}, "resolution_axis": True},
    )
    save_figure(figure, tmp_path)
    (found,) = load_figures(tmp_path)
    assert (found.name, found.kind, found.title, found.caption, found.x_label) == (
        "fsc", "curves", "FSC", "Two halves", "1/Å",
    )  # fmt: skip
    np.testing.assert_array_equal(found.data["y"]["masked / tight"], x**2)
    assert found.data["lines"] == {"0.143": 0.143}
    assert found.data["resolution_axis"] is True
