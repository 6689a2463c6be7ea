"""Many starts, of which the data keep the best.

Starts that lead nowhere end in local optima of about equal likelihood; the right structure explains the particles
clearly better, also those that no start has seen. Two starts that meet in the same map from different random detail
are the evidence that it is in the data.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.abinitio.level import Level, climb, evaluate, round_start
from cryoloom.abinitio.model import StartModel, random_model
from cryoloom.contract import Executor
from cryoloom.maps.superpose import superpose

INFORMATION = 6.0
AGREEMENT = 0.65


@dataclass(frozen=True)
class Contender:
    """A start on its way.

    Attributes
    ----------
    seed
        Number of the start.
    model
        Where it is.
    evidence
        Mean log-evidence of the training images.
    """

    seed: int
    model: StartModel
    evidence: float


@dataclass(frozen=True)
class Outcome:
    """What a tournament found.

    Attributes
    ----------
    contenders
        The starts that reached the end, best first.
    gain
        Log-evidence per held-out image that the best gains over the round model: mean, and its standard error.
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
    def stands_out(self) -> bool:
        """Whether the best explains the particles so much better than all others, which are alike, that chance is out.

        Starts that lead nowhere end at about equal evidence, so a gap of half a unit per particle and of six times the
        spread of four or more others is the structure, found by one start alone.
        """
        evidence = np.array([c.evidence for c in self.contenders])
        if len(evidence) < 5:
            return False
        return bool(evidence[0] - evidence[1] > max(0.5, 6.0 * evidence[1:].std()))


def run_tournament(
    level: Level,
    n_starts: int,
    n_classes: int,
    training: Tensor,
    held_out: Tensor,
    generator: Callable[..., torch.Generator],
    executor: Executor,
    *,
    first_round: int = 9,
    second_round: int = 12,
    advance: Callable[[], None] = lambda: None,
) -> Outcome:
    """Climb from `n_starts` random models, go on with the better third, and compare those.

    Parameters
    ----------
    training, held_out
        Images that starts are made from, and images that judge them.
    generator
        Gives a random generator for a key.
    advance
        Called after each start.
    """
    flat = round_start(level, n_classes, training, executor)
    mean_weight = level.images.inverse_variance[training].mean(0)
    contenders = []
    for seed in range(n_starts):
        start = random_model(flat, level.plan, level.ball, INFORMATION, mean_weight, generator("start", seed))
        model, sums = climb(start, level, training, first_round, executor)
        contenders.append(Contender(seed, model, float(sums.log_evidence.mean())))
        advance()
    contenders.sort(key=lambda c: -c.evidence)
    finalists = []
    for contender in contenders[: max(2, (n_starts + 2) // 3)]:
        model, sums = climb(contender.model, level, training, second_round, executor)
        finalists.append(Contender(contender.seed, model, float(sums.log_evidence.mean())))
        advance()
    finalists.sort(key=lambda c: -c.evidence)
    return judge(finalists, flat, level, held_out, executor)


def judge(finalists: list[Contender], flat: StartModel, level: Level, held_out: Tensor, executor: Executor) -> Outcome:
    """Compare the starts of the end with each other, and the best with the round model."""
    best = finalists[0]
    without = evaluate(flat, level, held_out, executor).log_evidence.double()
    with_it = evaluate(best.model, level, held_out, executor)
    difference = with_it.log_evidence.double() - without
    information = float((np.log(level.n_candidates * best.model.n_classes) - with_it.n_effective.double().log()).mean())
    agreements = [agreement_of(best.model, other.model, level) for other in finalists[1:]]
    return Outcome(
        finalists,
        float(difference.mean()),
        float(difference.std() / max(1, len(difference)) ** 0.5),
        information,
        max(agreements, default=0.0),
        1 + sum(a > AGREEMENT for a in agreements),
    )


def agreement_of(a: StartModel, b: StartModel, level: Level) -> float:
    """Real-space correlation of two starts without their round parts, superposed and up to hand.

    With several classes each class of `a` takes its best partner in `b`; the mean is returned.
    """
    box = level.plan.box
    field = level.resolution * float(level.plan.radii[-1].ceil())
    values = []
    for volume in a.volumes:
        found = [0.0]
        for other in b.volumes:
            if float(other.abs().max()) > 0 and float(volume.abs().max()) > 0:
                laid = superpose(volume, other, field / box, resolution=1.3 * level.resolution).apply(other)
                found.append(float((laid * volume).sum() / (laid.norm() * volume.norm())))
        values.append(max(found))
    return float(np.mean(values))
