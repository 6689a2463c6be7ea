import numpy as np
import pydantic
import pytest

from cryoloom.ctf_fit.settings import CtfSettings
from cryoloom.data import MicrographSet, Optics
from cryoloom.io.mrc import read_mrc, write_mrc
from cryoloom.io.records import read_micrographs
from cryoloom.project.runner import run_stage


@pytest.fixture
def micrographs(tmp_path, micrograph):
    rng = np.random.default_rng(0)
    folder = tmp_path / "micrographs"
    images = {
        "a": micrograph(rng, (900, 900), 1.5, 14_000.0, 13_000.0, 0.5, envelope=60, ice=0.6),
        "b": micrograph(rng, (900, 900), 1.5, 20_000.0, 19_800.0, 1.5, envelope=60, ice=0.6),
        "empty_ice": rng.standard_normal((900, 900)).astype(np.float32),
    }
    for name, image in images.items():
        write_mrc(folder / f"{name}.mrc", image, 1.5)
    broken = images["a"].copy()
    broken[5, 5] = np.nan
    write_mrc(folder / "nan.mrc", broken, 1.5)
    (folder / "short.mrc").write_bytes((folder / "a.mrc").read_bytes()[:5000])
    paths = [str(folder / f"{name}.mrc") for name in ("a", "empty_ice", "b", "nan", "short")]
    return MicrographSet(path=np.asarray(paths), optics=(Optics(pixel_size=1.5),), optics_index=np.zeros(5, np.int64))


def test_good_micrographs_get_their_ctf_and_bad_ones_are_named_with_a_reason(micrographs, tmp_path):
    result = run_stage("ctf", {"micrographs": micrographs}, {}, out=tmp_path / "ctf")
    summary = result.summary
    assert (summary["n_in"], summary["n_out"]) == (5, 2)
    assert summary["pixel_size_check"] == [
        "the rings of 2 micrographs do not reach far enough to tell whether the pixel size of 1.5 Å is right"
    ]
    causes = {item["item"].rpartition("/")[2]: item["cause"] for item in summary["left_out"]}
    assert set(causes) == {"empty_ice.mrc", "nan.mrc", "short.mrc"}
    assert "no Thon rings" in causes["empty_ice.mrc"]
    assert "NaN" in causes["nan.mrc"]
    found = read_micrographs(result["micrographs"])
    assert [str(p).rpartition("/")[2] for p in found.path] == ["a.mrc", "b.mrc"]
    np.testing.assert_allclose(found.defocus_u, [14_000, 20_000], atol=150)
    np.testing.assert_allclose(found.defocus_v, [13_000, 19_800], atol=150)
    assert abs(found.defocus_angle[0] - 0.5) < 0.2
    assert (found.defocus_error < 60).all()
    assert (found.ctf_resolution < 8).all()
    assert read_mrc(found.ctf_image[0])[0].shape[-2:] == (320, 320)
    assert len(read_micrographs(result["excluded"])) == 3


def test_the_same_call_reports_the_finished_job(micrographs, tmp_path):
    good = micrographs.select([0])
    first = run_stage("ctf", {"micrographs": good}, {}, out=tmp_path / "ctf")
    again = run_stage("ctf", {"micrographs": good}, {}, out=tmp_path / "ctf")
    assert again.resumed
    assert again.summary == first.summary


def test_keep_all_keeps_doubtful_micrographs_with_a_warning(micrographs, tmp_path):
    result = run_stage("ctf", {"micrographs": micrographs.select([0, 1])}, {"keep_all": True}, out=tmp_path / "ctf")
    assert result.summary["n_out"] == 2
    assert any("no Thon rings" in str(w) for w in result.summary["warnings"])


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(pydantic.ValidationError, match="defocus_max"):
        CtfSettings(defocus_min=30_000, defocus_max=20_000)
    with pytest.raises(pydantic.ValidationError, match="resolution_max"):
        CtfSettings(resolution_min=3, resolution_max=5)
