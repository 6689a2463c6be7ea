"""The stage `validate-install`: simulate, run the whole way, and measure every step against the truth."""

from typing import Any

from cryoloom.contract import Figure, Run, stage
from cryoloom.pipeline.run import run_pipeline
from cryoloom.project.runner import run_stage
from cryoloom.validate_install.settings import VALIDATE_INSTALL, ValidateInstallSettings
from cryoloom.validate_install.steps import Step, measure_steps

SYMMETRY = "C3"
EXPECTED = ("motion", "ctf", "pick", "refine")


@stage(VALIDATE_INSTALL)
def validate_install(settings: ValidateInstallSettings, run: Run) -> dict[str, Any]:
    """Rebuild a known structure; the summary lists every step with its error, its limit and whether it passed."""
    device = run.device
    data = run_stage(
        "simulate movies",
        {},
        {
            "movies": settings.movies, "width": settings.frame, "height": settings.frame, "frames": 16,
            "pixel_size": 1.8, "dose_per_frame": 2.0, "phantom": "tripod", "symmetry": SYMMETRY, "mass": 450.0,
        },
        out=run.folder / "data", device=device, threads=run.threads, seed=run.seed,
    )  # fmt: skip
    run.log(f"simulated {data.summary['n_particles']} particles in {settings.movies} movies")
    summary = run_pipeline(
        {"movies": str(data["movies"]), "gain": data.folder / "gain.mrc"},
        {"symmetry": SYMMETRY},
        out=run.folder / "project",
        device=device,
        threads=run.threads,
        seed=run.seed,
    )
    steps = measure_steps(run.folder / "project", data.folder, SYMMETRY, run.folder / "oracle")
    missing = [name for name in EXPECTED if name not in {step.step for step in steps}]
    passed = not missing and all(step.passed for step in steps)
    reasons = [_sentence(step) for step in steps] + [f"{name}: no result" for name in missing]
    run.summarise(
        verdict="found" if passed else "doubtful" if not missing else "not found",
        reasons=reasons,
        n_in=len(EXPECTED),
        n_out=len({step.step for step in steps if step.passed}),
        passed=passed,
        steps=[step.as_row() for step in steps],
        pipeline_verdict=summary["verdict"],
    )
    run.show(
        Figure(
            "steps",
            "table",
            "Steps",
            "Every step of the way with its error against the truth.",
            data={
                "columns": {
                    "step": [s.step for s in steps],
                    "measured": [s.what for s in steps],
                    "value": [f"{s.value:.3g} {s.unit}" for s in steps],
                    "limit": [f"{s.limit:.3g} {s.unit}" for s in steps],
                    "passed": ["yes" if s.passed else "NO" for s in steps],
                }
            },
        )
    )
    return {}


def _sentence(step: Step) -> str:
    relation = "at least" if step.larger_is_better else "at most"
    outcome = "passed" if step.passed else "FAILED"
    return f"{step.step}: {step.what} {step.value:.3g} {step.unit} ({relation} {step.limit:.3g}): {outcome}"
