"""Stage `denoise`: micrographs with even and odd sums in, pictures for the eye and for pickers out."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import MicrographSet
from cryoloom.io.denoised import DENOISED_LABEL
from cryoloom.io.images import read_micrograph
from cryoloom.io.mrc import write_mrc
from cryoloom.picking.denoise.halves import HalfPair, half_pair
from cryoloom.picking.denoise.model import Denoiser, load_denoiser, save_denoiser
from cryoloom.picking.denoise.settings import DENOISE, DenoiseSettings
from cryoloom.picking.denoise.training import judge_denoiser, train_denoiser
from cryoloom.picking.figures import stem_of

N_FIGURES = 2


@stage(DENOISE)
def denoise_micrographs(
    micrographs: MicrographSet, denoiser: Path | None, settings: DenoiseSettings, run: Run
) -> dict[str, MicrographSet]:
    """Denoise micrographs; see `DenoiseSettings`."""
    even, odd = micrographs.path_even, micrographs.path_odd
    if len(micrographs) == 0:
        raise InputError("There are no micrographs; check the list that was given.")
    if even is None or odd is None:
        raise InputError(
            "These micrographs have no even and odd sums, so nothing tells their noise from the picture; make them "
            "with `motion --even-odd`."
        )
    stems = [stem_of(str(path)) for path in micrographs.path]
    if len(set(stems)) < len(stems):
        raise InputError("Two micrographs have the same file name; the denoised ones would overwrite each other.")
    known = load_denoiser(denoiser) if denoiser is not None else None
    working = known.working if known is not None else settings.resolution / 2

    def name_of(row: int) -> str:
        return str(micrographs.path[row])

    def load(row: int) -> HalfPair:
        first, second = (torch.from_numpy(read_micrograph(paths[row])).to(run.device) for paths in (even, odd))
        pixel_size = micrographs.optics[int(micrographs.optics_index[row])].pixel_size
        return half_pair(first, second, pixel_size, working)

    model = known or _trained(len(micrographs), load, settings, run)

    def denoise(row: int) -> dict[str, Any]:
        pair = load(row)
        image = pair.in_full(model.denoise(pair)).cpu().numpy()
        pixel_size = micrographs.optics[int(micrographs.optics_index[row])].pixel_size
        path = run.folder / "denoised" / f"{stems[row]}.mrc"
        write_mrc(path, image, pixel_size, kind="image", labels=("cryoloom", DENOISED_LABEL))
        return {"working": pair.pixel_size}

    done = run.each(list(range(len(micrographs))), denoise, key=name_of, label="Denoising")
    kept = np.array([entry is not None for entry in done])
    rows = np.flatnonzero(kept)
    for number, row in enumerate(rows[:N_FIGURES]):
        _show(load(int(row)), model, stems[row], number, run)
    run.summarise(
        verdict="found",
        n_in=len(micrographs),
        n_out=len(rows),
        working_pixel_size=next((round(entry["working"], 3) for entry in done if entry is not None), None),
        use="viewing and picking only",
    )
    paths = np.asarray([str(run.folder / "denoised" / f"{stems[row]}.mrc") for row in rows])
    chosen = micrographs.select(kept)
    # no other image belongs to a denoised one, so that nothing is measured or summed by its name
    return {"micrographs": chosen.replace(path=paths, path_even=None, path_odd=None, path_undosed=None)}


def _trained(n: int, load: Any, settings: DenoiseSettings, run: Run) -> Denoiser:
    """Train a network on some of the micrographs, or take the linear filter if that is as good."""
    path = run.folder / "denoiser.npz"
    if path.exists():  # of this job, before it was stopped
        return load_denoiser(path)
    pairs = []
    for row in np.unique(np.linspace(0, n - 1, min(n, settings.most_micrographs)).astype(int)):
        try:
            pairs.append(load(int(row)))
        except (InputError, OSError) as error:
            run.log(f"not trained on: {error}")
    if not pairs:
        raise InputError("None of the micrographs that were to train on could be read; the causes are in run.log.")
    with run.progress(settings.steps, "Training") as progress:
        network, losses = train_denoiser(
            pairs, steps=settings.steps, seed=run.seed, device=run.device, advance=progress.advance
        )
    on_cpu = [HalfPair(p.halves.cpu(), p.filtered.cpu(), p.wiener.cpu(), p.pixel_size, p.scale, p.shape) for p in pairs]
    held = judge_denoiser(network, on_cpu)
    reasons = []
    if not held.better:
        reasons.append("the network is no better than the best linear filter, which was taken; more steps may help")
    model = Denoiser(network if held.better else None, settings.resolution / 2)
    save_denoiser(model, path)
    run.summarise(
        reasons=reasons,
        network=held.better,
        micrographs_trained_on=len(pairs),
        snr_of_half=round(held.snr_before, 5),
        snr_of_half_filtered=round(held.snr_filtered, 4),
        snr_of_half_denoised=round(held.snr_after, 4),
    )
    run.show(
        Figure(
            name="training",
            kind="curves",
            title="Loss during the training",
            caption="Squared distance to the other half, in units of its noise: 1 would be the picture itself. The "
            "rest is mostly noise of what is asked for, so the curve falls by little.",
            x_label="Step",
            y_label="Loss",
            data={"x": np.arange(1, len(losses) + 1), "y": {"loss": losses}},
        )
    )
    return model


def _show(pair: HalfPair, model: Denoiser, stem: str, number: int, run: Run) -> None:
    both = [("before", pair.halves.mean(0)), ("denoised", model.denoise(pair))]
    for words, image in both:
        run.show(
            Figure(
                name=f"{words}_{number + 1}",
                kind="image",
                title=f"{stem}, {words}",
                caption="For viewing and picking only; no particle is cut from a denoised micrograph."
                if words == "denoised"
                else "At the working resolution.",
                data={"image": image.cpu().numpy(), "pixel_size": pair.pixel_size},
            )
        )
