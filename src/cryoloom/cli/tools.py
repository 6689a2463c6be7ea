"""Commands that are no stages: what works on this machine, the jobs of a project, a report drawn again."""

import json
from pathlib import Path

import click

from cryoloom.cli.console import say


@click.command(name="doctor", help="What works on this machine, and how to mend what does not.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON")
@click.option("--folder", default=".", help="Folder that results will be written to [default: the current one]")
def doctor(as_json: bool, folder: str) -> None:
    """Check the machine."""
    from cryoloom.compute.doctor import examine

    findings = examine(Path(folder))
    if as_json:
        say(json.dumps([vars(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            mark = "ok     " if finding.ok else "PROBLEM"
            say(f"{mark} {finding.what}: {finding.found}")
            if finding.remedy:
                say(f"        {finding.remedy}")
    if not all(finding.ok for finding in findings):
        raise click.exceptions.Exit(1)


@click.command(name="jobs", help="The jobs of a project.")
@click.argument("project", default=".")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON")
def jobs(project: str, as_json: bool) -> None:
    """List jobs."""
    from cryoloom.project.folder import open_project
    from cryoloom.project.index import list_jobs

    rows = list_jobs(open_project(Path(project)))
    if as_json:
        say(json.dumps(rows, indent=1))
        return
    for row in rows:
        resolution = f"{row['resolution']:.2f} Å" if row["resolution"] else ""
        counts = f"{row['n_in']} -> {row['n_out']}" if row["n_out"] is not None else ""
        say(f"{row['folder']:28} {row['state'] or '':10} {counts:16} {resolution:10} {row['verdict'] or ''}")


@click.command(name="report", help="Draw the report of a job or of a project again.")
@click.argument("folder", default=".")
def report(folder: str) -> None:
    """Write report.html."""
    from cryoloom.pipeline.api import write_report

    say(str(write_report(Path(folder))))


COMMANDS = {"doctor": doctor, "jobs": jobs, "report": report}
