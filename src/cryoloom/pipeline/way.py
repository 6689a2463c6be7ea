"""A run on its way: the jobs that are done, and the next one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryoloom.pipeline.api import run_stage_with_report
from cryoloom.pipeline.settings import RunSettings
from cryoloom.project.progress import ProgressSink
from cryoloom.project.registry import find_stage
from cryoloom.project.runner import JobResult


@dataclass
class Way:
    """A run under way: the project, how to compute, and the jobs that are done."""

    root: Path
    settings: RunSettings
    options: dict[str, Any]
    sink: ProgressSink
    jobs: list[JobResult] = field(default_factory=list)

    def step(self, stage: str, inputs: Mapping[str, Any], *, growing: str | None = None, **settings: Any) -> JobResult:
        """Run one stage as a job of the project, or take its result when it was done before."""
        given = {name: value for name, value in settings.items() if value is not None}
        options = self.options
        if not find_stage(stage).uses_gpu and (options["require_gpu"] or options["device"] != "cpu"):
            options = {**options, "device": "cpu", "require_gpu": False}
            self.sink.message(f"{stage}: runs on the CPU only in this version")
        job = run_stage_with_report(stage, inputs, given, sink=self.sink, growing=growing, **options)
        self.jobs = [*(done for done in self.jobs if done.folder != job.folder), job]
        done = "was done before" if job.resumed else f"done in {job.summary.get('seconds', 0):.0f} s"
        counts = (
            f", {job.summary['n_out']} of {job.summary['n_in']} kept" if job.summary.get("n_out") is not None else ""
        )
        self.sink.message(f"{stage}: {done}{counts} ({job.folder.relative_to(self.root)})")
        return job
