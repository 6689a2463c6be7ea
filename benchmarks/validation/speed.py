"""The whole validation of a pair of half maps, and RELION's `relion_postprocess --locres` on the same pair.

    python benchmarks/validation/speed.py --box 256 --out FOLDER [--sampling 25] [--relion-limit 600]

Makes a phantom of 700 kDa with noise that resolves 3.5 Å, writes both halves and a mask, runs `cryoloom validate` (half
maps only: resolution, mask, FSC, local and directional resolution, statistics, hand) on two threads, and prints wall
and CPU time. RELION samples local resolution on a grid of `--sampling` Å (25 by default, as RELION has it); ours comes
out on a grid finer than 3 Å, by two methods. RELION is stopped after `--relion-limit` seconds; then its time is what it
would be at the share of points it had done. What was measured of it stands in `relion.json` and is not measured again
unless `--again` is given.
"""

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from cryoloom.data import VolumeMap
from cryoloom.fourier import rfftn
from cryoloom.io.map_file import write_map
from cryoloom.maps import lowpass, radial_frequency, soft_mask_from_map
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

RECORD = Path(__file__).with_name("relion.json")


def make_pair(out: Path, box: int, pixel_size: float, resolution: float) -> None:
    """Two half maps of a phantom with white noise, FSC 1/7 behind the mask at `resolution` Å, and the mask."""
    signal = torch.from_numpy(potential_map(phantom("globule", "C1", mass_kda=700.0), box, pixel_size).data)
    mask = soft_mask_from_map(lowpass(signal, pixel_size, 15.0), pixel_size)
    near = (radial_frequency(signal.shape, pixel_size) - 1 / resolution).abs() < 1.5 / (box * pixel_size)
    power = float((rfftn(signal * mask, 3).abs()[near] ** 2).mean())
    sigma = float((power * 6 / (mask**2).sum()) ** 0.5)
    generator = torch.Generator().manual_seed(0)
    for name in ("half1", "half2"):
        noisy = signal + sigma * torch.randn(signal.shape, generator=generator)
        write_map(VolumeMap(noisy.numpy(), pixel_size), out / f"{name}.mrc")
    write_map(VolumeMap(mask.numpy(), pixel_size), out / "mask.mrc")


def timed(command: list[str], limit: float, log: Path) -> tuple[float, float, bool]:
    """Wall and CPU seconds of a command, and whether it ended by itself within the limit."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            ended = process.wait(limit) == 0
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            ended = False
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.time() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended


def share_done(log: Path) -> float:
    """Share of RELION's points that were done, from the last time it printed, `elapsed / whole`."""
    found = re.findall(r"([\d.]+)/\s*([\d.]+) (sec|min|hrs)", log.read_text(errors="replace").replace("\r", "\n"))
    return float(found[-1][0]) / float(found[-1][1]) if found else 0.0


def measured_relion(out: Path, options: argparse.Namespace) -> dict[str, float | str] | None:
    """What RELION needs for the same pair, from the record or measured now; None where it is not at hand."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    known = record.get(str(options.box))
    arguments = (
        f"--i FOLDER/half1.mrc --i2 FOLDER/half2.mrc --mask FOLDER/mask.mrc --angpix {options.pixel_size} "
        f"--o FOLDER/relion --locres --locres_sampling {options.sampling}"
    )
    said = f"relion_postprocess {arguments}"
    if known and known["command"] == said and not options.again:
        return known
    program = shutil.which("relion_postprocess")
    if not program:
        return None
    command = [program, *arguments.replace("FOLDER", str(out)).split()]
    _, cpu, ended = timed(command, options.relion_limit, out / "relion.log")
    share = 1.0 if ended else share_done(out / "relion.log")
    if share <= 0:
        return None
    found = {
        "box": options.box, "pixel_size": options.pixel_size, "resolution_planted": options.resolution,
        "command": said, "cpu_seconds": round(cpu, 1), "share_of_points": round(share, 4),
        "cpu_seconds_whole": round(cpu / share), "threads": 1,
    }  # fmt: skip
    RECORD.write_text(json.dumps(record | {str(options.box): found}, indent=1, sort_keys=True) + "\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--box", type=int, default=256)
    parser.add_argument("--pixel-size", type=float, default=1.2)
    parser.add_argument("--resolution", type=float, default=3.5)
    parser.add_argument("--sampling", type=float, default=25.0)
    parser.add_argument("--relion-limit", type=float, default=600.0)
    parser.add_argument("--again", action="store_true", help="measure RELION even if it stands in the record")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "mask.mrc").exists():
        make_pair(out, options.box, options.pixel_size, options.resolution)
    shutil.rmtree(out / "ours", ignore_errors=True)
    command = [
        sys.executable, "-c", "from cryoloom.cli.main import main; main()", "validate",
        "--half1", str(out / "half1.mrc"), "--half2", str(out / "half2.mrc"),
        "--out", str(out / "ours"), "--threads", str(options.threads), "--quiet",
    ]  # fmt: skip
    wall, cpu, ended = timed(command, 1e5, out / "ours.log")
    print(f"cryoloom validate: {wall:.0f} s wall, {cpu:.0f} CPU s{'' if ended else ' (FAILED)'}", flush=True)
    theirs = measured_relion(out, options)
    if theirs is None:
        print("RELION: not at hand, or nothing finished")
        return
    whole, share = float(theirs["cpu_seconds_whole"]), float(theirs["share_of_points"])
    said = "" if share == 1 else f" (from {100 * share:.0f} % of the points)"
    print(f"RELION --locres: {whole:.0f} CPU s{said}; ratio of CPU times {cpu / whole:.3f}")


if __name__ == "__main__":
    main()
