"""Simulated projects of PLT-3: make the movies of one from its description, take them to a map, score the map.

python benchmarks/projects/run_project.py 12_tripod_c3 --out DIR [--movies-only] [--movies N]
    python benchmarks/projects/run_project.py --table

Each description is a TOML file beside this script: settings of `simulate movies`, what a user would say to `cryoloom
run`, and the verdict that is right. `result.json` in DIR holds the verdict, the error of every step, the true
resolution and that of the oracle (true poses and true CTFs, the same images); a project passes within 10 % of the
oracle, or by saying `not found` where there is nothing. The same command goes on where it was stopped. A whole project
(all its movies) adds a line to the evidence of row PLT-3; `--table` prints what was measured so far.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

from cryoloom.pipeline.run import run_pipeline
from cryoloom.project.runner import JobResult, run_stage
from cryoloom.validate_install.steps import ALLOWED, Step, measure_steps

FOLDER = Path(__file__).resolve().parent
EVIDENCE = FOLDER.parent / "evidence" / "PLT-3.jsonl"


def project_names() -> list[str]:
    """Names of all descriptions."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_description(name: str) -> dict[str, Any]:
    """The description of one project."""
    with (FOLDER / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


def make_movies(name: str, out: Path, *, n_movies: int | None = None) -> JobResult:
    """Simulate the movies of a project into `out`, all or the first `n_movies`."""
    description = read_description(name)
    settings = description["simulate"] | ({} if n_movies is None else {"movies": n_movies})
    return run_stage("simulate movies", {}, settings, out=out, seed=description["seed"])


def run_project(name: str, out: Path, *, n_movies: int | None = None) -> dict[str, Any]:
    """Movies, `cryoloom run` and the score of one project."""
    description = read_description(name)
    started = time.monotonic()
    data = make_movies(name, out / "data", n_movies=n_movies)
    inputs: dict[str, Any] = {"movies": str(data["movies"])}
    if (data.folder / "gain.mrc").exists():
        inputs["gain"] = data.folder / "gain.mrc"
    summary = run_pipeline(inputs, description["run"], out=out / "project", seed=description["seed"])
    result: dict[str, Any] = {
        "project": name,
        "verdict": summary["verdict"],
        "expected_verdict": description["expect"]["verdict"],
        "reported_resolution": summary.get("resolution"),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "cpu_seconds": summary["cpu_seconds"],
    }
    if description["simulate"].get("particles") != 0:
        steps = measure_steps(out / "project", data.folder, description["run"]["symmetry"], out / "oracle")
        result["steps"] = [step.as_row() for step in steps]
        result |= _against_oracle(steps)
    if "ratio_to_oracle" in result:
        result["passed"] = result["ratio_to_oracle"] <= ALLOWED
    else:
        result["passed"] = summary["verdict"] == description["expect"]["verdict"]
    result["silently_wrong"] = summary["verdict"] == "found" and not result["passed"]
    (out / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def record(result: dict[str, Any]) -> None:
    """Add a project to the evidence of PLT-3, in place of an earlier run of it."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=FOLDER, capture_output=True, text=True)
    line = {name: value for name, value in result.items() if name != "steps"}
    line["errors"] = {f"{step['step']}: {step['what']}": step["value"] for step in result.get("steps", [])}
    line |= {
        "commit": done.stdout.strip(),
        "hardware": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
    }
    line["date"] = datetime.date.today().isoformat()
    kept = [other for other in recorded() if other["project"] != result["project"]]
    lines = sorted([*kept, line], key=lambda entry: entry["project"])
    EVIDENCE.write_text("".join(json.dumps(entry) + "\n" for entry in lines), encoding="utf-8")


def recorded() -> list[dict[str, Any]]:
    """The projects measured so far."""
    return [json.loads(line) for line in EVIDENCE.read_text().splitlines()] if EVIDENCE.exists() else []


def table() -> str:
    """What was measured so far, as Markdown."""
    rows = [
        "| Project | Verdict | True resolution (Å) | Oracle (Å) | Ratio | Reported (Å) | Picks F1 | CPU s | Passed |"
    ]
    rows.append("|---|---|---|---|---|---|---|---|---|")
    for entry in recorded():
        f1 = next((value for name, value in entry["errors"].items() if name.startswith("pick")), None)
        cells = [entry["project"], entry["verdict"], entry.get("true_resolution"), entry.get("oracle_resolution")]
        cells += [entry.get("ratio_to_oracle"), entry["reported_resolution"], f1, entry["cpu_seconds"]]
        shown = ["" if cell is None else str(cell) for cell in cells]
        rows.append("| " + " | ".join([*shown, "yes" if entry["passed"] else "no"]) + " |")
    return "\n".join(rows)


def _against_oracle(steps: list[Step]) -> dict[str, float]:
    """True resolution, that of the oracle, and their ratio; empty where there is no map."""
    found = [step for step in steps if step.what == "true resolution"]
    if not found:
        return {}
    oracle = found[0].limit / ALLOWED
    return {
        "true_resolution": round(found[0].value, 3),
        "oracle_resolution": round(oracle, 3),
        "ratio_to_oracle": round(found[0].value / oracle, 4),
    }


def main() -> None:
    """Read the command line and run one project."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=project_names())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", action="store_true", help="print what was measured so far")
    parser.add_argument("--movies-only", action="store_true", help="stop when the movies are made")
    parser.add_argument("--movies", type=int, default=None, help="make fewer movies than the description says")
    arguments = parser.parse_args()
    if arguments.table:
        print(table())
        return
    if arguments.name is None or arguments.out is None:
        parser.error("give a project and --out")
    if arguments.movies_only:
        job = make_movies(arguments.name, arguments.out, n_movies=arguments.movies)
        print(job["movies"])
    else:
        result = run_project(arguments.name, arguments.out, n_movies=arguments.movies)
        if arguments.movies is None:
            record(result)
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
