"""Groups of points to start chains from: around means, or along subspaces."""

from __future__ import annotations

import numpy as np

_ROUNDS = 10  # of Lloyd's algorithm
_TRIES = 50  # starts of groups along subspaces, each from points at random


def k_means(points: np.ndarray, num_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Cluster of every point (T, D): k-means++, then ten rounds of Lloyd's algorithm."""
    if num_clusters >= len(points):
        return np.arange(len(points))
    centers = points[[rng.integers(len(points))]]  # a copy: centres move, points stay
    for _ in range(num_clusters - 1):
        distance = ((points[:, None] - centers) ** 2).sum(-1).min(1)
        share = distance / distance.sum() if distance.sum() > 0 else np.full(len(points), 1 / len(points))
        centers = np.concatenate([centers, points[rng.choice(len(points), p=share)][None]])
    for _ in range(_ROUNDS):
        nearest = ((points[:, None] - centers) ** 2).sum(-1).argmin(1)
        for k in np.unique(nearest):
            centers[k] = points[nearest == k].mean(0)
    return np.asarray(nearest)


def k_subspaces(points: np.ndarray, num_clusters: int, rank: int, rng: np.random.Generator) -> np.ndarray:
    """Group of every point (T, D): each to the nearest of subspaces through the points' mean.

    Groups and subspaces in turn, as in k-means, from the spans of few points at random; of many such starts
    the one that leaves least of the points outside of their subspaces (k-plane clustering: Bradley and
    Mangasarian, 2000).

    Args:
        points: Shape (T, D).
        num_clusters: Number of subspaces.
        rank: Their dimension.
        rng: Source of randomness.
    """
    if num_clusters >= len(points) or rank >= points.shape[1]:
        return k_means(points, num_clusters, rng)
    centred = points - points.mean(0)
    best, least = np.zeros(len(points), dtype=int), np.inf
    for _ in range(_TRIES):
        chosen = rng.permutation(len(points))[: num_clusters * rank]
        members = [centred[part] for part in np.array_split(chosen, num_clusters)]
        bases = [_directions(part, rank) for part in members]
        for _ in range(_ROUNDS):
            left = np.stack([((centred - centred @ V.T @ V) ** 2).sum(1) for V in bases])
            group = left.argmin(0)
            bases = [
                _directions(centred[group == k], rank) if (group == k).any() else basis
                for k, basis in enumerate(bases)
            ]
        if left.min(0).sum() < least:
            best, least = group, left.min(0).sum()
    return best


def _directions(points: np.ndarray, rank: int) -> np.ndarray:
    """Orthonormal directions along which points vary most, (up to rank, D)."""
    return np.asarray(np.linalg.svd(points, full_matrices=False)[2][:rank])
