"""Many starts, of which the data keep the best.

All climb at coarse detail, the better half goes on to finer detail, and the last few are compared at the finest: on
particles that no start was made from. Starts that lead nowhere end in local optima of about equal likelihood; the right
structure explains the particles clearly better. Two starts that meet in the same map from different random detail are
the evidence that it is in the data. If none meet, a further round of starts joins those that are left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.abinitio.climb import Centres, climb, recentre
from cryoloom.abinitio.level import Level, evaluate, information_of, judging_shifts, round_evidence, round_start
from cryoloom.abinitio.model import StartModel, random_model
from cryoloom.contract import Executor
from cryoloom.maps.superpose import superpose

INFORMATION = 6.0
AGREEMENT = 0.8
FIRM = 0.97  # two starts may meet in one wrong optimum, but not as closely as in the right one
WEAK_AGREEMENT, APART = 0.6, 0.25
N_JUDGING = 300


@dataclass(frozen=True)
class Step:
    """What a start does at one level of detail.

    Attributes
    ----------
    part
        The level's resolution is the particle's diameter divided by this.
    n_batches, batch
        Steps taken, and particles in each.
    memory
        What is left of the sums after a batch, see `climb`.
    wander
        How far particles may be from where they were thought to sit at first: standard deviation as a part of the
        diameter. While maps are poor it is kept small, or the centres follow their errors.
    """

    part: float
    n_batches: int
    batch: int
    memory: float
    wander: float = 0.02


@dataclass(frozen=True)
class Contender:
    """A start on its way.

    Attributes
    ----------
    seed
        Number of the start.
    model
        Where it is.
    centre_px
        Where it thinks that the images sit, pixels yx, `(n, 2)`.
    evidence
        Mean log-evidence of held-out images.
    """

    seed: int
    model: StartModel
    centre_px: Tensor
    evidence: float


@dataclass(frozen=True)
class Outcome:
    """What a tournament found.

    Attributes
    ----------
    contenders
        The starts that reached the end, best first.
    gain
        Log-evidence per held-out image that the best gains over its round part: mean, and its standard error.
    information
        Log of candidates over effective candidates of the held-out images, mean: how well views are told apart.
    agreement
        Correlation of the best with the start that agrees best among the others of the end, superposed, up to hand,
        without the round part.
    n_agreeing
        Starts of the end that agree with the best, itself included.
    """

    contenders: list[Contender]
    gain: float
    gain_error: float
    information: float
    agreement: float
    n_agreeing: int

    @property
    def firm(self) -> bool:
        """Whether the starts leave no doubt: three met, or two so closely as they do in the right optimum only."""
        return self.n_agreeing > 2 or (self.n_agreeing > 1 and self.agreement > FIRM) or self.stands_out

    @property
    def stands_out(self) -> bool:
        """Whether the best explains the particles so much better than all others, which are alike, that chance is out.

        Starts that lead nowhere end at about equal evidence, so a gap of half a unit per particle and of six times the
        spread of four or more others is the structure, found by one start alone.
        """
        evidence = np.array([c.evidence for c in self.contenders])
        if len(evidence) < 5:
            return False
        return bool(evidence[0] - evidence[1] > max(0.5, 6.0 * evidence[1:].std()))


class Tournament:
    """Starts on the levels of one particle set.

    Parameters
    ----------
    levels, steps
        Levels of detail, coarse to fine, and what is done at each.
    n_classes
        Structures in each start.
    training, held_out
        Images that starts are made from, and images that judge them.
    first_px
        Where particles are thought to sit at first, pixels yx, `(n, 2)`.
    diameter_px
        Diameter of the particle, pixels.
    generator
        Gives a random generator for a key.
    recall, keep
        Get a contender that an earlier run of the same job finished, by (start, level); and put one by.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        steps: Sequence[Step],
        n_classes: int,
        training: Tensor,
        held_out: Tensor,
        first_px: Tensor,
        diameter_px: float,
        generator: Callable[..., torch.Generator],
        executor: Executor,
        *,
        recall: Callable[[int, int], Contender | None] = lambda seed, i: None,
        keep: Callable[[int, Contender], None] = lambda i, contender: None,
    ) -> None:
        self.levels, self.steps, self.n_classes = list(levels), list(steps), n_classes
        self.training, self.held_out, self.first_px = training, held_out, first_px
        self.centres = [Centres(first_px, step.wander * diameter_px) for step in steps]
        self.generator, self.executor = generator, executor
        self._recall, self._keep = recall, keep
        self.flat = [round_start(level, n_classes, training, first_px[training], executor) for level in levels]
        self.finalists: list[Contender] = []
        self._n_started = 0

    def play(self, n_starts: int, advance: Callable[[], None] = lambda: None) -> Outcome:
        """One round of starts; all that reached the end in any round are compared.

        Parameters
        ----------
        advance
            Called after each climb of a start.
        """
        seeds = range(self._n_started, self._n_started + n_starts)
        self._n_started += n_starts
        running = [self._climb(seed, None, 0, advance) for seed in seeds]
        for i in range(1, len(self.steps)):
            running.sort(key=lambda c: -c.evidence)
            running = [self._climb(c.seed, c, i, advance) for c in running[: survivors(n_starts, i)]]
        self.finalists = sorted(self.finalists + running, key=lambda c: -c.evidence)
        return self._judge()

    def _climb(self, seed: int, before: Contender | None, i: int, advance: Callable[[], None]) -> Contender:
        """Take a start through level `i`, or recall that it was done."""
        done = self._recall(seed, i)
        if done is None:
            done = self._climb_now(seed, before, i)
            self._keep(i, done)
        advance()
        return done

    def _climb_now(self, seed: int, before: Contender | None, i: int) -> Contender:
        level, step, centres = self.levels[i], self.steps[i], self.centres[i]
        generator = self.generator("start", seed, i)
        if before is None:
            mean_weight = level.inverse_variance[self.training].mean(0)
            model = random_model(self.flat[i], level.plan, level.ball, INFORMATION, mean_weight, generator)
            centre = self.first_px
        else:
            model, centre = _with_profiles(before.model, self.flat[i]), before.centre_px
        model, centre = climb(
            model, centre, level, self.training, centres, step.n_batches, step.batch, step.memory, generator,
            self.executor,
        )  # fmt: skip
        # Held-out images are centred on the model as the others were, then judged.
        some = self.held_out
        for _ in range(2):
            sums = evaluate(model, level, level.images(some, centre[some]), self.executor)
            centre[some] = recentre(model, level, some, centre[some], centres, sums)
        sums = evaluate(model, level, level.images(some, centre[some]), self.executor)
        return Contender(seed, model, centre, float(sums.log_evidence.double().mean()))

    def _judge(self) -> Outcome:
        """Compare the starts of the end with each other, and the best with its round part.

        Gain and information come from evidence averaged over shifts about the first centres, for both models the same.
        """
        level, best = self.levels[-1], self.finalists[0]
        some = self.held_out[:N_JUDGING]
        shifts = judging_shifts(level)
        images = level.images(some, self.first_px[some], shifts)
        with_it = evaluate(best.model, level, images, self.executor)
        without = round_evidence(self.flat[-1], level, images, self.executor)
        difference = with_it.log_evidence.double() - without.double()
        agreements = [agreement_of(best.model, other.model, level) for other in self.finalists[1:]]
        gain = float(difference.mean())
        return Outcome(
            self.finalists,
            gain,
            float(difference.std() / max(1, len(difference)) ** 0.5),
            information_of(with_it, level, len(shifts), best.model.n_classes),
            max(agreements, default=0.0),
            count_agreeing([c.evidence for c in self.finalists], agreements, gain),
        )


def count_agreeing(evidence: Sequence[float], agreements: Sequence[float], gain: float) -> int:
    """Starts that agree with the best, itself included.

    Maps from few particles correlate less even if they show the same: a weaker agreement counts for those that explain
    the particles clearly better than the best that does not agree, by a quarter of what the best gains in all.

    Parameters
    ----------
    evidence
        Of all starts, best first.
    agreements
        Of the best with each of the others.
    gain
        Log-evidence that the best gains over its round part.
    """
    strong = 1 + sum(a > AGREEMENT for a in agreements)
    weak = [e for e, a in zip(evidence[1:], agreements, strict=True) if a > WEAK_AGREEMENT]
    others = [e for e, a in zip(evidence[1:], agreements, strict=True) if a <= WEAK_AGREEMENT]
    if weak and others and min(weak) - max(others) > APART * gain:
        return max(strong, 1 + len(weak))
    return strong


def survivors(n_starts: int, i: int) -> int:
    """Starts that climb at the level `i` of those that began: half of them each time, and never less than three."""
    return n_starts if i == 0 else min(n_starts, max(3, -(-n_starts // 2**i)))


def _with_profiles(model: StartModel, flat: StartModel) -> StartModel:
    """The model with round parts that reach as far as those of `flat`, from there where it has none."""
    n = model.profiles.shape[1]
    profiles = flat.profiles.clone()
    profiles[:, : min(n, profiles.shape[1])] = model.profiles[:, : profiles.shape[1]]
    return StartModel(profiles, model.volumes)


def agreement_of(a: StartModel, b: StartModel, level: Level) -> float:
    """Real-space correlation of two starts without their round parts, superposed and up to hand.

    With several classes each class of `a` takes its best partner in `b`; the mean is returned.
    """
    values = []
    for volume in a.volumes:
        found = [0.0]
        for other in b.volumes:
            if float(other.abs().max()) > 0 and float(volume.abs().max()) > 0:
                laid = superpose(volume, other, level.pixel_size, resolution=1.3 * level.resolution).apply(other)
                found.append(float((laid * volume).sum() / (laid.norm() * volume.norm())))
        values.append(max(found))
    return float(np.mean(values))
