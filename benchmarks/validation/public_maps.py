"""What can be said of public maps that came without their half maps, beside what was published of them.

    python benchmarks/validation/public_maps.py DATA_FOLDER

DATA_FOLDER holds `maps/` and `models/` as `docs/guide.md` names them. For each map: the estimate of its resolution from
itself, or why there is none. Where a model is at hand it is laid on the map, and where FSC with it falls to 0.5 is
printed, with the hand that fits better. For the map whose authors published its local resolution, the FSC with the
model in a window around each voxel is held beside that: `FSC = 0.5` against a model without noise is where halves have
1/7, so both should order the places of the map alike, and be alike in the middle if the model is right everywhere.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from cryoloom.io.map_file import read_map
from cryoloom.io.model_file import read_model
from cryoloom.maps import fourier_shell_correlation, soft_mask_from_map
from cryoloom.maps.atoms import atom_density
from cryoloom.maps.fsc import resolution_at
from cryoloom.maps.local_resolution import default_window, measure_local_resolution
from cryoloom.maps.single_map import estimate_single_map
from cryoloom.maps.superpose import superpose
from cryoloom.maps.windowed import WindowedHalves

ALONE = ("EMD-3197.map", "emd_1148.map", "emd_1973.map", "emd_1977.map", "emd_5295.map")
WITH_MODEL = {
    "emd_1080_groel.mrc": ("1oel.pdb", "11.5 Å"),
    "betagal_3.54A.mrc": ("5a1a.pdb", "local 7.2 to 11.0 Å, median 8.2 Å"),
}
LOCAL = {"betagal_3.54A.mrc": "betagal_local_resolution.mrc"}


def lay_model(path: Path, volume: Tensor, pixel_size: float) -> tuple[Tensor, bool]:
    """Density of a model laid on a map, and whether the model's own hand fits better than its mirror image."""
    model = read_model(path, assembly=True)
    box = volume.shape[0]
    position = model.position - model.position.mean(0) + box // 2 * pixel_size
    density = atom_density(position, model.element, np.maximum(model.bfactor, 20.0), (box,) * 3, pixel_size)
    found = superpose(volume, density, pixel_size, resolution=max(12.0, 3 * pixel_size))
    return found.apply(density), not found.mirrored


def report_on(folder: Path, name: str) -> None:
    """Print what is found of one map."""
    volume_map = read_map(folder / "maps" / name)
    volume, pixel_size = torch.from_numpy(np.array(volume_map.data, np.float32)), volume_map.pixel_size
    box = volume.shape[0]
    print(f"{name}: {'x'.join(map(str, volume.shape))} voxels of {pixel_size:.2f} Å", flush=True)
    if len(set(volume.shape)) == 1:
        alone = estimate_single_map(volume, pixel_size)
        print(f"  from the map alone: {alone.reason or f'{alone.resolution:.1f} Å'}")
    if name not in WITH_MODEL:
        return
    model, published = WITH_MODEL[name]
    density, right_hand = lay_model(folder / "models" / model, volume, pixel_size)
    mask = soft_mask_from_map(density, pixel_size, lowpass_resolution=max(12.0, 3 * pixel_size), extend=6.0, edge=8.0)
    fsc = fourier_shell_correlation(volume * mask, density * mask).numpy()
    at_half = resolution_at(fsc, 0.5, box, pixel_size)
    print(f"  published: {published}; FSC 0.5 with {model}: {at_half:.1f} Å; hand {'right' if right_hand else 'other'}")
    if name in LOCAL:
        theirs = np.asarray(read_map(folder / "maps" / LOCAL[name], pixel_size=pixel_size).data)
        compare_local(volume, density, mask, pixel_size, max(at_half, 2 * pixel_size), theirs)


def compare_local(
    volume: Tensor, density: Tensor, mask: Tensor, pixel_size: float, resolution: float, theirs: np.ndarray
) -> None:
    """Print the FSC with the model place by place beside a published local resolution `(n, n, n)`."""
    scaled = density * float((volume * mask).std() / (density * mask).std().clamp_min(1e-9))
    pair = WindowedHalves(volume, scaled, pixel_size, mask, default_window(resolution, pixel_size))
    ours = measure_local_resolution(pair, threshold=0.5).fsc
    inside = (mask.numpy() > 0.9) & (theirs > 0)
    for whose, values in (("published", theirs), ("FSC with the model", ours)):
        low, middle, high = np.quantile(values[inside], [0.05, 0.5, 0.95])
        print(f"  local resolution, {whose}: {middle:.1f} Å ({low:.1f} to {high:.1f} Å in 90 % of the voxels)")
    step = np.s_[::3, ::3, ::3]
    rank = spearmanr(theirs[step][inside[step]], ours[step][inside[step]]).statistic
    print(f"  rank correlation of both over the particle: {rank:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", help="one map of them")
    options = parser.parse_args()
    for name in (*WITH_MODEL, *ALONE) if not options.only else (options.only,):
        report_on(options.data, name)


if __name__ == "__main__":
    main()
