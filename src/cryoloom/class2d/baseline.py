"""A plain clustering of particle images: k-means on principal components of rotation-free features.

It shares no idea with the mixture model of this room: no averages are refined and no posterior is summed. Each image
is compared with a few hundred landmark images of the set, each comparison being the highest correlation over all
in-plane angles of one with the other. These similarities do not change when an image is turned; images of one view
are alike to the same landmarks. Their principal components (so a kernel PCA by landmarks; Schölkopf 1998,
doi:10.1162/089976698300017467) are clustered by k-means, if wished into clusters of equal size as in ISAC (Yang et al.
2012, doi:10.1016/j.str.2011.12.007).

Neglected: shifts (images should be centred to about the resolution used), and of the CTF all but its sign.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cryoloom.class2d.rings_source import RingSource

LANDMARKS = 400
_MORE_COMPONENTS = 2  # than clusters
_ROUNDS = 60


@dataclass(frozen=True)
class Clustering:
    """What the baseline says of each image.

    Attributes
    ----------
    cluster
        From 0, `(n,)` int64.
    share
        How sure that is against the other clusters, from the distances to all centres, `(n,)` in (0, 1].
    """

    cluster: np.ndarray
    share: np.ndarray


def cluster_images(
    source: RingSource, n_clusters: int, rng: np.random.Generator, *, equal: bool = False, restarts: int = 20
) -> Clustering:
    """Cluster the images of a source.

    Parameters
    ----------
    source
        Images on rings; all its rings are used.
    n_clusters
        At least 2.
    rng
        Draws landmarks and first centres.
    equal
        Clusters of equal size.
    restarts
        Of k-means; the tightest result is taken.
    """
    n = len(source)
    chosen = np.sort(rng.choice(n, min(n, LANDMARKS), replace=False))
    coefficients = angular_features(source)
    similarity = turned_similarity(coefficients, coefficients[torch.from_numpy(chosen)]).numpy().astype(np.float64)
    # an image is its own best match, which tells nothing of the others
    similarity[chosen, np.arange(len(chosen))] = np.nan
    features = principal_components(similarity, n_clusters + _MORE_COMPONENTS)
    return k_means(features, n_clusters, rng, equal=equal, restarts=restarts)


def angular_features(source: RingSource) -> Tensor:
    """Coefficients over the angle of each image with the signs of its CTF, whitened and of length 1.

    Returns
    -------
    coefficients
        Complex, `(n, 2 half, rings)`; the sum of the squared magnitudes of each image is 1.
    """
    parts, power = [], torch.zeros(source.plan.n_rings, dtype=torch.float64)
    for rows in source.batches(np.arange(len(source))):
        chunk = source.chunk(rows)
        flipped = chunk.samples * torch.sign(chunk.ctf)
        power += chunk.power.double().sum(0)
        # the other half of each ring is the complex conjugate
        ring = torch.cat([flipped, flipped.conj()], dim=-1)  # (b, rings, angles)
        parts.append(torch.fft.fft(ring, dim=-1).transpose(1, 2))
    weight = (source.plan.ring_weight.double() / power.clamp_min(1e-20)).sqrt()
    coefficients = torch.cat(parts) * weight.to(parts[0].real.dtype)
    return coefficients / coefficients.abs().square().sum((1, 2), keepdim=True).sqrt().clamp_min(1e-20)


def turned_similarity(first: Tensor, second: Tensor, block: int = 64) -> Tensor:
    """Highest correlation over all angles, `(n, angles, rings)` and `(m, angles, rings)` to `(n, m)`."""
    out = torch.empty(len(first), len(second))
    other = second.conj().permute(1, 2, 0).contiguous()  # (angles, rings, m)
    for start in range(0, len(first), block):
        mine = first[start : start + block].permute(1, 0, 2)  # (angles, b, rings)
        products = torch.bmm(mine, other)  # (angles, b, m)
        out[start : start + block] = torch.fft.ifft(products, dim=0).real.amax(0) * len(products)
    return out


def principal_components(values: np.ndarray, n_components: int) -> np.ndarray:
    """First principal components of rows `(n, m)`, without the mean of each row; missing values count as the mean."""
    centred = values - np.nanmean(values, axis=1, keepdims=True)
    centred = np.nan_to_num(centred - np.nanmean(centred, axis=0, keepdims=True))
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return (u * s)[:, :n_components]


def k_means(
    features: np.ndarray, n_clusters: int, rng: np.random.Generator, *, equal: bool = False, restarts: int = 20
) -> Clustering:
    """Cluster rows `(n, d)` by Lloyd's iterations from k-means++ centres, the tightest of several."""
    best, lowest, centres = np.zeros(len(features), np.int64), np.inf, features[:1]
    for _ in range(restarts):
        label, middle, inertia = _lloyd(features, _spread_centres(features, n_clusters, rng), equal)
        if inertia < lowest:
            best, lowest, centres = label, inertia, middle
    distance = _squared(features, centres)
    variance = max(lowest / max(features.size, 1), 1e-20)
    odds = np.exp(-0.5 * (distance - distance.min(1, keepdims=True)) / variance)
    share = odds[np.arange(len(best)), best] / odds.sum(1)
    return Clustering(best, np.maximum(share, 1e-6))


def _lloyd(features: np.ndarray, centres: np.ndarray, equal: bool) -> tuple[np.ndarray, np.ndarray, float]:
    label = np.full(len(features), -1)
    for _ in range(_ROUNDS):
        distance = _squared(features, centres)
        found = _equal_assignment(distance) if equal else distance.argmin(1)
        if (found == label).all():
            break
        label = found
        for k in range(len(centres)):
            mine = label == k
            # a cluster that lost all its members takes the image that lies farthest from its centre
            centres[k] = features[mine].mean(0) if mine.any() else features[distance.min(1).argmax()]
    distance = _squared(features, centres)
    return label, centres, float(distance[np.arange(len(label)), label].sum())


def _equal_assignment(distance: np.ndarray) -> np.ndarray:
    """Cluster of each image so that sizes differ by one at most and the sum of distances is least."""
    n, k = distance.shape
    places = np.repeat(np.arange(k), -(-n // k))
    rows, columns = linear_sum_assignment(distance[:, places])
    label = np.empty(n, np.int64)
    label[rows] = places[columns]
    return label


def _spread_centres(features: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Centres by k-means++ (Arthur and Vassilvitskii 2007)."""
    centres = [features[rng.integers(len(features))]]
    for _ in range(n - 1):
        distance = _squared(features, np.stack(centres)).min(1)
        total = distance.sum()
        chance = distance / total if total > 0 else np.full(len(features), 1 / len(features))
        centres.append(features[rng.choice(len(features), p=chance)])
    return np.stack(centres)


def _squared(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return ((features[:, None] - centres[None]) ** 2).sum(-1)
