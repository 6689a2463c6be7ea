"""Stages `deposit` and `check-deposit`."""

from pathlib import Path
from typing import Any

from cryoloom.contract import Figure, Run, stage
from cryoloom.deposit.bundle import write_bundle
from cryoloom.deposit.check import Finding, check_bundle
from cryoloom.deposit.settings import CHECK_DEPOSIT, DEPOSIT, CheckDepositSettings, DepositSettings
from cryoloom.deposit.sources import find_sources


@stage(DEPOSIT)
def make_deposition(project: Path, settings: DepositSettings, run: Run) -> dict[str, Any]:
    """Make a folder `bundle` with all that the archives ask for, and check it.

    The half maps are copied to the byte. What only a person knows is listed under `open_for_the_form`; the archive's
    form asks for it and no file needs an edit.
    """
    sources = find_sources(project, settings.job)
    folder = run.folder / "bundle"
    meta = write_bundle(sources, settings, folder)
    findings = check_bundle(folder, {name: sources.files[name] for name in ("half1", "half2")})
    _report(findings, run)
    run.summarise(
        bundle=folder.name,
        n_in=len(sources.files),
        resolution=meta["map"]["resolution"],
        symmetry=meta["map"]["symmetry"],
        pixel_size=meta["map"]["pixel_size"],
        contour=meta["map"]["contour"],
        source=meta["project_job"],
        open_for_the_form=meta["open_for_the_form"],
    )
    return {}


@stage(CHECK_DEPOSIT)
def check_deposition(bundle: Path, project: Path | None, settings: CheckDepositSettings, run: Run) -> dict[str, Any]:
    """Check a deposition folder as it is now."""
    files = None
    if project is not None:
        found = find_sources(project)
        files = {name: found.files[name] for name in ("half1", "half2")}
    _report(check_bundle(bundle, files), run)
    run.summarise(n_in=1)
    return {}


def _report(findings: list[Finding], run: Run) -> None:
    wrong = [finding for finding in findings if not finding.ok]
    for finding in wrong:
        run.warn(f"{finding.item}: {finding.text}")
    run.summarise(
        verdict="found" if not wrong else "doubtful",
        reasons=[f"{len(findings) - len(wrong)} of {len(findings)} items are in order."]
        + [f"{finding.item}: {finding.text}" for finding in wrong],
        n_out=len(findings) - len(wrong),
        n_items=len(findings),
        missing=[finding.item for finding in wrong],
    )
    run.show(
        Figure(
            name="items",
            kind="table",
            title="Items of the deposition",
            caption="Each file was opened anew; the half maps were compared byte by byte with the refined ones.",
            data={
                "columns": {
                    "item": [finding.item for finding in findings],
                    "state": ["in order" if finding.ok else "wrong" for finding in findings],
                    "what": [finding.text for finding in findings],
                }
            },
        )
    )
