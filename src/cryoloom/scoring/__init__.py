"""Scores of any result against the truth of a simulation; pure functions, and the stage `score`."""

from cryoloom.scoring.classes import ClassScore, adjusted_mutual_information, score_classes
from cryoloom.scoring.defocus import DefocusScore, score_defocus
from cryoloom.scoring.maps import MapScore, score_map, true_resolution
from cryoloom.scoring.matching import match_particles
from cryoloom.scoring.motion import MotionScore, score_motion
from cryoloom.scoring.picks import PickScore, score_picks
from cryoloom.scoring.poses import PoseScore, score_poses, score_rotations

__all__ = [
    "ClassScore",
    "DefocusScore",
    "MapScore",
    "MotionScore",
    "PickScore",
    "PoseScore",
    "adjusted_mutual_information",
    "match_particles",
    "score_classes",
    "score_defocus",
    "score_map",
    "score_motion",
    "score_picks",
    "score_poses",
    "score_rotations",
    "true_resolution",
]
