"""A second look at the micrographs, with the refined map: particles that were missed are found and refined too.

The first picks are made without knowing the particle, and those of later rounds with averages of some views. The map
shows all views, whole and centred, so its projections find more, and in their middle. Picks that sit where no particle
was refined count as missed particles as far as they score like those that sit on reliable ones. Where these are many,
all picks are refined, from where the first refinement began, with half sets drawn anew: the halves share no more than
before. Dirt among the picks is left to the refinement, which hears only particles that fit its map.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from cryoloom.data import ParticleSet, PickSet
from cryoloom.data.names import match_rows
from cryoloom.io.records import read_particles, read_picks
from cryoloom.pipeline.way import Way
from cryoloom.project.runner import JobResult

APART = 0.4  # of the diameter: places nearer than this are one particle
WORTH = 0.15  # missed particles over the reliable ones, from which on refining again pays
RELIABLE = 0.5  # probability that the pose of a refined particle is right
FEWEST = 20  # reliable particles that tell how a particle scores


def refine_again(
    way: Way, micrographs: Path, refined: JobResult, diameter: float, refine: Callable[[Path], JobResult]
) -> JobResult:
    """Look again with the map of a refinement; the refinement that shows more, which may be the one given.

    Parameters
    ----------
    way, micrographs
        The run, and its micrographs.
    refined
        The first refinement.
    diameter
        Of the particle, Å.
    refine
        Refines particles as the first time.
    """
    known = read_particles(refined["particles"], root=way.root)
    reliable = known.reliability is not None and int((known.reliability > RELIABLE).sum()) >= FEWEST
    if not reliable or refined.summary["verdict"] == "not found":
        return refined
    before = list(way.jobs)
    inputs = {"micrographs": micrographs, "references": refined["map"]}
    picks = way.step("pick", inputs, diameter=diameter, method=way.settings.picking)
    share = gained_share(read_picks(picks["picks"], root=way.root), known, diameter)
    if share < WORTH:
        way.sink.message(f"The map finds {share:.0%} more particles than were refined: not refined again.")
        return _keep(way, before, refined)
    way.sink.message(f"The map finds {share:.0%} more particles than were refined: all are refined again.")
    cut = way.step("extract", {"micrographs": micrographs, "picks": picks["picks"]}, diameter=diameter)
    again = refine(cut["particles"])
    if again.summary["resolution"] < refined.summary["resolution"]:
        return again
    return _keep(way, before, refined)


def _keep(way: Way, before: list[JobResult], refined: JobResult) -> JobResult:
    """The first refinement; of the jobs of one stage the last one counts, so those of the second look go ahead."""
    folders = {job.folder for job in before}
    way.jobs = [*(job for job in way.jobs if job.folder not in folders), *before]
    return refined


def gained_share(picks: PickSet, known: ParticleSet, diameter: float) -> float:
    """Particles that new picks would add, over the reliable ones that are known.

    Of the picks at reliable particles, half score above their median; so twice the number of other picks that do is
    that of missed particles.

    Parameters
    ----------
    picks
        New ones, with scores.
    known
        Refined particles with their reliability and their places on micrographs.
    diameter
        Of the particle, Å.
    """
    assert picks.score is not None and known.reliability is not None
    assert known.position_px is not None and known.micrograph is not None
    if not len(picks):
        return 0.0
    sure = known.select(np.flatnonzero(known.reliability > RELIABLE))
    assert sure.position_px is not None and sure.micrograph is not None
    size = np.asarray([group.original_pixel_size or group.pixel_size for group in sure.optics])[sure.optics_index]
    shift = np.zeros((len(sure), 2)) if sure.shift is None else np.nan_to_num(sure.shift)
    centre = np.asarray(sure.position_px, np.float64) + shift / size[:, None]
    names = np.unique(np.asarray(picks.micrograph, dtype=str))
    of_pick, _ = match_rows(names, picks.micrograph)
    of_known, found = match_rows(names, sure.micrograph)
    taken = np.zeros(len(picks), bool)
    for i in range(len(names)):
        own, theirs = np.flatnonzero(of_pick == i), centre[found][of_known[found] == i]
        if len(own) and len(theirs):
            reach = APART * diameter / float(np.median(size))
            taken[own] = cKDTree(theirs).query(picks.position_px[own])[0] < reach
    if taken.sum() < FEWEST:
        return 0.0
    middle = float(np.median(picks.score[taken]))
    missed = 2 * int((picks.score[~taken] >= middle).sum())
    return missed / len(sure)
