"""Settings and declaration of the stage `rerun`."""

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class RerunSettings(Settings):
    """How near a rebuilt result must come."""

    tolerance: float = setting(
        1e-5, "Largest difference of a rebuilt map from the first one, of its largest value.", ge=0, lt=1
    )


RERUN = StageDeclaration(
    name="rerun",
    help="Make the results of a job again from its records, with all jobs before it, and compare them.",
    settings=RerunSettings,
    function="cryoloom.rerun.stage:rerun_job",
    inputs=(Input("job", "folder", "Folder of a finished job inside of a project."),),
    uses_gpu=False,
)
