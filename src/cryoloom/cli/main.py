"""The `cryoloom` command. Stage commands are made from the registry when they are asked for."""

import gc
import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import click

import cryoloom
from cryoloom.cli.console import ConsoleSink, complain, say
from cryoloom.cli.options import given_settings, given_watch, input_options, setting_options, watch_options
from cryoloom.contract import CryoloomError, StageDeclaration
from cryoloom.pipeline.settings import WATCHED_INPUTS
from cryoloom.project.progress import NoProgress
from cryoloom.project.registry import STAGES, find_stage

RECIPES = {"run": "cryoloom.pipeline.settings:RUN"}
TOOLS = ("doctor", "jobs", "report")
DEBUG = "CRYOLOOM_DEBUG"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ends the process with the exit codes of the contract."""
    sys.exit(run_command(arguments))


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 the work failed, 2 wrong input, 3 too many items failed."""
    try:
        given = list(arguments) if arguments is not None else None
        code = cli.main(args=given, prog_name="cryoloom", standalone_mode=False)
        return code if isinstance(code, int) else 0  # click returns the code of an early exit
    except CryoloomError as error:
        if os.environ.get(DEBUG):
            raise
        complain(f"cryoloom: {error}")
        return error.exit_code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        complain("cryoloom: stopped; give the same command again to go on where it was.")
        return 1
    except MemoryError:
        complain("cryoloom: the memory of this machine is used up; use a smaller --box or fewer --threads.")
        return 1
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        if trouble := _trouble_of_gpu(error):
            complain(f"cryoloom: {trouble}; what was finished is kept, the same command goes on from there.")
            return 1
        complain(
            f"cryoloom: an error of the program itself: {type(error).__name__}: {error}. What was finished is kept; "
            f"set {DEBUG}=1 and repeat the command to see where it happened, and please report it."
        )
        return 1


def _trouble_of_gpu(error: Exception) -> str | None:
    """What is wrong with the GPU, and how to mend it; None if the error is another one."""
    if isinstance(error, RuntimeError):
        if type(error).__name__ == "OutOfMemoryError":
            return "the memory of the GPU is used up; choose a free GPU with --device, or --device cpu"
        if type(error).__name__ == "AcceleratorError" or str(error).startswith("CUDA error"):
            first = str(error).splitlines()[0]
            return f"the GPU does not answer any more ({first}); choose another with --device, or --device cpu"
    return None


class StageGroup(click.Group):
    """Commands looked up in the registry, so that only the one asked for is imported."""

    def __init__(self, *args: Any, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prefix = prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, in the order of the pipeline."""
        names = [name.removeprefix(self._prefix) for name in STAGES if name.startswith(self._prefix)]
        words = list(dict.fromkeys(name.split(" ")[0] for name in names))
        return words if self._prefix else [*RECIPES, *words, *TOOLS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make the command."""
        full = self._prefix + cmd_name
        if full in STAGES:
            return _stage_command(find_stage(full), cmd_name)
        if not self._prefix and cmd_name in RECIPES:
            from cryoloom.cli.recipes import run_recipe_command

            return run_recipe_command()
        if not self._prefix and cmd_name in TOOLS:
            from cryoloom.cli import tools

            return tools.COMMANDS[cmd_name]
        if any(name.startswith(full + " ") for name in STAGES):
            return StageGroup(cmd_name, prefix=full + " ", help=f"Commands of {cmd_name}.")
        return None


def common_options() -> list[click.Option]:
    """Options that every command takes."""
    return [
        click.Option(
            ["--out"], type=str, metavar="DIR", help="Folder of the results [default: next job of the project]"
        ),
        click.Option(
            ["--device"], default="auto", metavar="auto|cpu|cuda|cuda:N|cuda:N,M|cuda:all", help="Where to compute"
        ),
        click.Option(["--require-gpu"], is_flag=True, help="Refuse to run on the CPU"),
        click.Option(["--threads"], type=click.IntRange(1), metavar="N", help="Threads [default: all cores]"),
        click.Option(["--seed"], type=int, default=0, metavar="N", help="Seed of all random numbers"),
        click.Option(["--new"], is_flag=True, help="Start another job even if the same one exists"),
        click.Option(["--plan"], is_flag=True, help="Say what it would take (time, memory, disk), then stop"),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the summary as JSON"),
        click.Option(["--quiet"], is_flag=True, help="No progress"),
    ]


@contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """No search for garbage while libraries are imported, nor later among what they made: it all stays.

    That takes a fifth off the time to start, half a second.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _stage_command(declaration: StageDeclaration, name: str) -> click.Command:
    def callback(**values: Any) -> None:
        with _nothing_to_collect():
            from cryoloom.pipeline.api import plan_stage, run_stage_with_report
            from cryoloom.pipeline.watch import watch_stage

        inputs = collect_inputs(declaration, values)
        settings = given_settings(declaration.settings, values)
        if values["plan"]:
            show_summary(plan_stage(declaration.name, inputs, settings, threads=values["threads"]), values["as_json"])
            return
        with _nothing_to_collect():
            declaration.load()
            importlib.import_module("cryoloom.report.job")  # needed at the end
        watch = given_watch(values)
        begin = partial(watch_stage, watch=watch) if watch else run_stage_with_report
        result = begin(
            declaration.name,
            inputs,
            settings,
            out=values["out"],
            device=values["device"],
            require_gpu=values["require_gpu"],
            threads=values["threads"],
            seed=values["seed"],
            new=values["new"],
            sink=NoProgress() if values["quiet"] or values["as_json"] else ConsoleSink(),
        )
        if not values["as_json"] and not values["quiet"]:
            say(f"{'was finished before' if result.resumed else 'done'}: {result.folder}")
        show_summary(result.summary, values["as_json"], quiet=values["quiet"])

    writes = "\n".join(f"  {output}: {what}" for output, what in declaration.writes.items())
    return click.Command(
        name,
        callback=callback,
        params=[
            *input_options(declaration),
            *common_options(),
            *(watch_options() if declaration.name in WATCHED_INPUTS else ()),
            *setting_options(declaration.settings),
        ],
        help=declaration.help,
        epilog=f"\b\nResults:\n{writes}" if writes else None,
        short_help=declaration.help,
    )


def collect_inputs(declaration: StageDeclaration, values: dict[str, Any]) -> dict[str, Any]:
    """The inputs that the user gave."""
    found = {}
    for declared in declaration.inputs:
        value = values.get(f"input_{declared.name}")
        if value:
            found[declared.name] = list(value) if isinstance(value, tuple) else value
    return found


def show_summary(summary: dict[str, Any], as_json: bool, quiet: bool = False) -> None:
    """The summary on standard output: as JSON, or its short figures as lines."""
    if as_json:
        say(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    if quiet:
        return
    for key, value in summary.items():
        if isinstance(value, list) and key in ("reasons", "warnings"):
            for text in value:
                say(f"  {key[:-1]}: {text}")
        elif isinstance(value, float):
            say(f"  {key.replace('_', ' ')}: {value:.4g}")
        elif value is not None and isinstance(value, str | int | bool):
            say(f"  {key.replace('_', ' ')}: {value}")


@click.group(cls=StageGroup, context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.version_option(cryoloom.__version__)
def cli() -> None:
    """Cryo-EM single-particle data from raw movies to a validated map."""
