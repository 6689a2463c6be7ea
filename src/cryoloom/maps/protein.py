"""What an average protein looks like in reciprocal space: the profile that a Guinier fit is measured against.

The table is the mean over eight proteins and complexes (PDB 1WCM, 5A1A, 6VXX, 3SN6, 1AKE, 3O21, 1FHA, 1OEL) of the
logarithm of the rotationally averaged power of their electron scattering potential without any blur, relative to the
sum of the squared scattering factors of their atoms at zero angle. `scripts/make_protein_profile.py` recomputes it.
In vacuum: below 0.1 1/Å (10 Å) the solvent around a real particle takes contrast away.
"""

import numpy as np

FREQUENCY = np.arange(0.05, 0.5001, 0.01)

LOG_POWER = np.array(
    [
        1.821, 1.351, 1.180, 1.062, 0.863, 0.601, 0.394, 0.136, -0.025, -0.176, -0.201, -0.237, -0.158, -0.044, 0.114,
        0.234, 0.309, 0.304, 0.210, 0.077, -0.021, -0.181, -0.278, -0.406, -0.551, -0.650, -0.748, -0.871, -0.949,
        -1.042, -1.083, -1.140, -1.183, -1.221, -1.243, -1.251, -1.237, -1.247, -1.246, -1.259, -1.279, -1.299, -1.350,
        -1.388, -1.430, -1.495,
    ]
)  # fmt: skip

LOG_POWER_SPREAD = np.array(
    [
        0.380, 0.236, 0.156, 0.194, 0.198, 0.106, 0.147, 0.110, 0.092, 0.116, 0.125, 0.161, 0.165, 0.159, 0.106, 0.084,
        0.055, 0.051, 0.033, 0.030, 0.056, 0.040, 0.060, 0.060, 0.042, 0.057, 0.059, 0.034, 0.041, 0.027, 0.036, 0.034,
        0.028, 0.038, 0.028, 0.030, 0.034, 0.033, 0.042, 0.056, 0.032, 0.037, 0.037, 0.026, 0.021, 0.018,
    ]
)  # fmt: skip

PREDICTION = 1.3
"""Spread of a new protein over that of the eight: `sqrt(1 + 1 / 8)`, and Student's t of 7 over the normal deviate."""

CORRELATION_LENGTH = 0.02
"""1/Å over which deviations of one protein from the average are alike: the inverse of about 50 Å."""


def protein_log_amplitude(frequency: np.ndarray) -> np.ndarray:
    """Logarithm of the amplitude (half that of the power) of an average unblurred protein, like `frequency` (1/Å)."""
    return 0.5 * np.interp(np.asarray(frequency, dtype=np.float64), FREQUENCY, LOG_POWER)


def protein_log_amplitude_spread(frequency: np.ndarray) -> np.ndarray:
    """Standard deviation with which a new protein differs from `protein_log_amplitude`."""
    return 0.5 * PREDICTION * np.interp(np.asarray(frequency, dtype=np.float64), FREQUENCY, LOG_POWER_SPREAD)
