"""What a person is shown of a picking job."""

import sys
from pathlib import Path

import numpy as np
import torch

from cryoloom.data import MicrographSet, Optics, PickSet
from cryoloom.picking.decide import Decision
from cryoloom.picking.figures import show_picks

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from memory_run import MemoryRun


def test_picks_scores_and_templates_are_shown(tmp_path):
    micrographs = MicrographSet(
        path=np.asarray(["m/a.mrc"]), optics=(Optics(pixel_size=2.0),), optics_index=np.zeros(1, int)
    )
    picks = PickSet(
        position_px=np.asarray([[40.0, 100.0], [100.0, 40.0], [80.0, 80.0]]),
        micrograph=np.full(3, "m/a.mrc"),
        score=np.asarray([5.0, 9.0, 7.0]),
        probability=np.asarray([0.6, 0.9, 0.8]),
        class_number=np.asarray([2, 1, 1]),
    )
    decision = Decision(picks, np.linspace(2, 9, 40), 4.5, 1e-9, 0.1, 0, [0])
    run = MemoryRun(tmp_path)
    show_picks(micrographs, decision, 60.0, "deviations", lambda row: (torch.randn(128, 160), 2.0), run)
    shown = {figure.name: figure.data for figure in run.figures}
    assert shown["scores"]["lines"] == {"threshold": 4.5}
    assert shown["classes"]["columns"] == {
        "template": [1, 2], "picks": [2, 1], "median score": [8.0, 5.0], "median probability": [0.85, 0.6],
    }  # fmt: skip
    assert shown["picks_1"]["values"].tolist() == [0.6, 0.9, 0.8]
    np.testing.assert_allclose(shown["picks_1"]["points"], picks.position_px, atol=1.0)
