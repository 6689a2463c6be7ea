"""Commands that are no stages: what works on this machine, the jobs of a project, a report drawn again."""

import json
from pathlib import Path

import click

from cryoloom.cli.console import say


@click.command(name="doctor", help="What works on this machine, and how to mend what does not.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON")
@click.option("--plan", is_flag=True, help="Say what it would do, then stop")
@click.option("--folder", default=".", help="Folder that results will be written to [default: the current one]")
def doctor(as_json: bool, plan: bool, folder: str) -> None:
    """Check the machine."""
    if plan:
        return _show_plan("doctor", f"looks at this machine and at {folder}; writes nothing", as_json)
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
@click.option("--plan", is_flag=True, help="Say what it would do, then stop")
def jobs(project: str, as_json: bool, plan: bool) -> None:
    """List jobs."""
    if plan:
        return _show_plan("jobs", f"reads the records of the jobs in {project}; writes nothing", as_json)
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
@click.option("--json", "as_json", is_flag=True, help="Print as JSON")
@click.option("--plan", is_flag=True, help="Say what it would do, then stop")
def report(folder: str, as_json: bool, plan: bool) -> None:
    """Write report.html."""
    from cryoloom.pipeline.api import write_report

    if plan:
        return _show_plan("report", f"writes {Path(folder) / 'report.html'} from results that are there", as_json)
    written = str(write_report(Path(folder)))
    say(json.dumps({"report": written}) if as_json else written)


def _show_plan(command: str, text: str, as_json: bool) -> None:
    say(json.dumps({"command": command, "seconds": 10, "reasons": [text]}) if as_json else f"{command} {text}")


COMMANDS = {"doctor": doctor, "jobs": jobs, "report": report}
