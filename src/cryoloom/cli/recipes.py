"""The command `run`: the whole way as one command."""

from typing import Any

import click

from cryoloom.cli.console import ConsoleSink, say
from cryoloom.cli.main import collect_inputs, common_options, show_summary
from cryoloom.cli.options import given_settings, given_watch, input_options, setting_options, watch_options
from cryoloom.contract import InputError
from cryoloom.pipeline.settings import RUN
from cryoloom.project.progress import NoProgress


def run_recipe_command() -> click.Command:
    """Make the command from its declaration."""

    def callback(**values: Any) -> None:
        from cryoloom.pipeline.run import plan_pipeline, run_pipeline

        inputs = collect_inputs(RUN, values)
        settings = given_settings(RUN.settings, values)
        if values["plan"]:
            show_summary(plan_pipeline(inputs, settings, threads=values["threads"]), values["as_json"])
            return
        if not values["out"]:
            raise InputError("Where shall the project go? Add --out DIR.")
        quiet = values["quiet"] or values["as_json"]
        summary = run_pipeline(
            inputs,
            settings,
            out=values["out"],
            device=values["device"],
            require_gpu=values["require_gpu"],
            threads=values["threads"],
            seed=values["seed"],
            new=values["new"],
            sink=NoProgress() if quiet else ConsoleSink(),
            watch=given_watch(values),
        )
        show_summary(summary, values["as_json"], quiet=values["quiet"])
        if not quiet:
            say(f"report: {summary['report']}")
            say(f"map: {summary['map']}")

    return click.Command(
        "run",
        callback=callback,
        params=[*input_options(RUN), *common_options(), *watch_options(), *setting_options(RUN.settings)],
        help=RUN.help,
        short_help=RUN.help,
    )
