"""The whitened joint density of one point and its gradient, in NumPy, without a tape.

A chain of the NUTS engine evaluates one point at a time, and on arrays as small as a task's weights the
bookkeeping of a tensor costs several times the arithmetic. So everything past the hyperparameters is
differentiated by hand here; only the way from their coordinates to A, Z's scale and E's covariance is left
to torch.

The letters are those of `joint`; `d_` is the derivative of the log density in what follows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from bayesmtl.inference.nuts.whitening import Whitening
from bayesmtl.likelihoods import Given
from bayesmtl.posteriors.linear.outcomes import OutcomePosterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior

_LOG_2PI = math.log(2 * math.pi)
_PARTS = ("loadings", "basis_scale", "residual_scale", "residual_factor")

Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray]]


def value_and_gradient(white: Whitening) -> Evaluate:
    """A function from a whitened point (n,) to the log density there and its gradient (n,).

    Of `white.log_density`, to rounding; minus infinity and zeros where it cannot be evaluated.
    """
    problem = white.joint.problem
    if not problem.likelihood.compresses and problem.likelihood.parameters(problem.tasks.num_tasks):
        return _by_tape(white)  # the likelihood's own derivatives are in f alone
    return _ByHand(white)


def _by_tape(white: Whitening) -> Evaluate:
    def evaluate(v: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(v)[None].requires_grad_()
        with torch.enable_grad():
            value = white.log_density(point)[0]
            (gradient,) = torch.autograd.grad(value, point)
        return float(value.detach()), gradient[0].numpy()

    return evaluate


class _ByHand:
    def __init__(self, white: Whitening):
        self.joint, self.problem, self.layout = white.joint, white.joint.problem, white.joint.layout
        self.center, self.shared = white.center.numpy(), white.shared.numpy()
        self.roots = (white.free.numpy(), white.bound.numpy())
        centred = self.joint.centred.numpy() & (self.layout.bound > 0)
        self.f, self.b = np.flatnonzero(~centred), np.flatnonzero(centred)
        if isinstance(self.problem, OutcomePosterior):
            self.has_noise, self.likelihood = False, _of_rows(self.problem)
        else:
            self.has_noise, self.likelihood = True, _of_statistics(self.problem)

    def __call__(self, v: np.ndarray) -> tuple[float, np.ndarray]:
        layout, P, m = self.layout, self.layout.hyperparameters, self.layout.shared
        x = self.center.copy()
        x[:m] += self.shared @ v[:m]
        places, start = [], m
        for roots in self.roots:
            place = slice(start, start + roots.shape[0] * roots.shape[1])
            x[place] += (roots @ v[place].reshape(*roots.shape[:2], 1)).ravel()
            places.append(place)
            start = place.stop
        d_x = np.zeros_like(x)
        points = torch.from_numpy(x[None, :P]).requires_grad_()
        with torch.enable_grad():
            log_prior, values = self.problem.space.log_prior(points)
            structure = self.problem.structure(values)
            parts = {name: getattr(structure, name) for name in _PARTS}
            parts["noise"] = self.problem.noise(values, 1) if self.has_noise else None
        tape = {name: part for name, part in parts.items() if part is not None}
        given = {name: part.detach().numpy() for name, part in tape.items()}
        with np.errstate(all="ignore"):
            free = x[places[0]].reshape(layout.free, layout.own + layout.factors)
            bound = x[places[1]].reshape(layout.bound, layout.features)
            try:
                value, d_given = self._weights(
                    given, x[P:m], free, bound, (d_x[P:m], d_x[places[0]], d_x[places[1]])
                )
            except np.linalg.LinAlgError:
                return -math.inf, np.zeros_like(v)
        if P:
            outputs, slopes = [log_prior], [torch.ones(1, dtype=torch.float64)]
            for name, part in tape.items():
                if part.requires_grad:
                    outputs.append(part)
                    slopes.append(torch.from_numpy(d_given[name].reshape(tuple(part.shape))))
            (d_points,) = torch.autograd.grad(outputs, points, slopes)
            d_x[:P] = d_points[0].numpy()
        value += float(log_prior.detach())
        if not (math.isfinite(value) and np.isfinite(d_x).all()):
            return -math.inf, np.zeros_like(v)
        gradient = np.empty_like(v)
        gradient[:m] = d_x[:m] @ self.shared
        for roots, place in zip(self.roots, places, strict=True):
            block = d_x[place].reshape(roots.shape[0], 1, roots.shape[1])
            gradient[place] = (block @ roots).ravel()
        return value, gradient

    def _weights(
        self,
        given: dict[str, np.ndarray],
        z: np.ndarray,
        free: np.ndarray,
        bound: np.ndarray,
        d_coordinates: tuple[np.ndarray, np.ndarray, np.ndarray],
    ) -> tuple[float, dict[str, np.ndarray]]:
        """All but the hyperparameters' prior; fills derivatives in coordinates, returns those in `given`."""
        layout, T, D = self.layout, self.problem.tasks.num_tasks, self.layout.features
        d_z, d_free, d_bound = d_coordinates
        value, d_given = 0.0, {name: np.zeros_like(part) for name, part in given.items()}
        means = np.zeros((T, D))
        if "basis_scale" in given:
            A, s = given["loadings"].reshape(T, -1), given["basis_scale"][0]
            z = z.reshape(s.shape)
            value -= 0.5 * z.size * _LOG_2PI
            if self.joint.basis_centred:
                Z, r = z, z / s
                value -= 0.5 * (r * r).sum() + np.log(np.abs(s)).sum()
            else:
                Z = s * z
                value -= 0.5 * (z * z).sum()
            means = A @ Z
        W, d_means = means, np.zeros((T, D))
        scale = given["residual_scale"][0] if "residual_scale" in given else None
        factor = given["residual_factor"][0] if "residual_factor" in given else None
        if scale is not None or factor is not None:
            W = means.copy()
            own, u = free[:, : layout.own], free[:, layout.own :]
            scale_f = None if scale is None else scale if len(scale) == 1 else scale[self.f]
            if scale_f is not None:
                W[self.f] += scale_f * own
            if factor is not None:
                W[self.f] += u @ factor.T
            value -= 0.5 * (free * free).sum() + 0.5 * free.size * _LOG_2PI
            if layout.bound:
                W[self.b] = bound
                apart = bound - means[self.b]
                log_density, d_apart = self._bound(apart, scale, factor, d_given)
                value += log_density
        log_likelihood, g = self.likelihood(W, given, d_given)
        value += log_likelihood
        d_means[:] = g
        if scale is not None or factor is not None:
            g_f, d_own = g[self.f], -free
            if scale is not None and scale_f is not None:
                d_own[:, : layout.own] += scale_f * g_f
                change = g_f * own
                if len(scale) == 1:
                    d_given["residual_scale"][0] += change.sum(0)
                else:
                    d_given["residual_scale"][0, self.f] += change
            if factor is not None:
                d_own[:, layout.own :] += g_f @ factor
                d_given["residual_factor"][0] += g_f.T @ u
            d_free[:] = d_own.ravel()
            if layout.bound:
                d_bound[:] = (g[self.b] + d_apart).ravel()
                d_means[self.b] = -d_apart
        if "basis_scale" in given:
            d_Z = A.T @ d_means
            d_given["loadings"] += (d_means @ Z.T).reshape(given["loadings"].shape)
            if self.joint.basis_centred:
                d_z[:] = (d_Z - r / s).ravel()
                d_given["basis_scale"][0] = (r * r - 1) / s
            else:
                d_z[:] = (s * d_Z - z).ravel()
                d_given["basis_scale"][0] = z * d_Z
        return value, d_given

    def _bound(
        self,
        apart: np.ndarray,
        scale: np.ndarray | None,
        factor: np.ndarray | None,
        d_given: dict[str, np.ndarray],
    ) -> tuple[float, np.ndarray]:
        """log N(e_t; 0, S_t) of the centred tasks, and its derivative in e_t."""
        number, D = apart.shape
        scale_b = None if scale is None else scale if len(scale) == 1 else scale[self.b]
        value = -0.5 * apart.size * _LOG_2PI
        if factor is None:
            assert scale is not None and scale_b is not None
            r = apart / scale_b
            value -= 0.5 * (r * r).sum() + np.log(np.abs(scale_b)).sum() * (number / len(scale_b))
            change = (r * r - 1) / scale_b
            if len(scale) == 1:
                d_given["residual_scale"][0] += change.sum(0)
            else:
                d_given["residual_scale"][0, self.b] += change
            return float(value), -r / scale_b
        S = (factor @ factor.T)[None]
        if scale_b is not None:
            S = S + scale_b[:, :, None] ** 2 * np.eye(D)
        L = np.linalg.cholesky(S)
        inverse = np.linalg.inv(S)
        solved = (inverse @ apart[..., None])[..., 0]
        log_det = 2 * np.log(L.diagonal(axis1=1, axis2=2)).sum() * (number / len(S))
        d_S = 0.5 * (solved[:, :, None] * solved[:, None, :] - inverse)
        d_given["residual_factor"][0] += 2 * d_S.sum(0) @ factor
        if scale is not None and scale_b is not None:
            change = 2 * scale_b * d_S.diagonal(axis1=1, axis2=2)
            if len(scale) == 1:
                d_given["residual_scale"][0] += change.sum(0)
            else:
                d_given["residual_scale"][0, self.b] += change
        return float(value - 0.5 * (apart * solved).sum() - 0.5 * log_det), -solved


def _of_rows(problem: OutcomePosterior) -> Callable[..., tuple[float, np.ndarray]]:
    """log p(y | W) and its derivative in W, through the likelihood's own derivatives in f."""
    rows, likelihood = problem.rows, problem.rowwise
    of_row = torch.cat([block.index.repeat_interleave(block.X.shape[1]) for block in rows.blocks])
    X = torch.cat([block.X.flatten(0, 1) for block in rows.blocks])[rows.real].numpy()
    task, y, offset = of_row[rows.real].numpy(), rows.y[rows.real], rows.known[..., rows.real]
    weights, given = rows.weights[rows.real], Given({}, rows.trials[rows.real], torch.from_numpy(task))
    starts = np.flatnonzero(np.diff(task, prepend=-1))  # a task's rows lie together
    seen, C = task[starts], problem.num_outputs
    shape = (1, *rows.shape[:-1], len(y))

    def evaluate(W: np.ndarray, *_: object) -> tuple[float, np.ndarray]:
        own = W.reshape(len(W), C, -1)[task]
        f = offset + torch.from_numpy(np.einsum("nd,ncd->cn", X, own)).reshape(shape)
        at = likelihood.derivatives(y, f, given)
        value, slope = (weights * at.value[0]).sum(), (weights * at.first).reshape(C, -1).numpy()
        g = np.zeros_like(W)
        if len(seen):
            each = X[:, None] * slope.T[:, :, None]
            g[seen] = np.add.reduceat(each.reshape(len(X), -1), starts)
        return float(value), g

    return evaluate


def _of_statistics(problem: LinearPosterior) -> Callable[..., tuple[float, np.ndarray]]:
    """The same for Gaussian noise, and its derivative in the noise."""
    tasks = problem.tasks
    groups = [(group.index.numpy(), group.F.numpy(), group.c.numpy()) for group in tasks.groups]
    count, residual = tasks.count.numpy(), tasks.residual.numpy()

    def evaluate(
        W: np.ndarray, given: dict[str, np.ndarray], d_given: dict[str, np.ndarray]
    ) -> tuple[float, np.ndarray]:
        sigma = np.broadcast_to(given["noise"][0], count.shape)
        g, squares = np.zeros_like(W), residual.copy()
        for index, F, c in groups:
            gap = c - (F @ W[index, :, None])[..., 0]
            squares[index] += (gap * gap).sum(1)
            g[index] = (gap[:, None, :] @ F)[:, 0] / sigma[index, None] ** 2
        change = squares / sigma**3 - count / sigma
        d_given["noise"] = change[None] if given["noise"].shape[1] > 1 else change.sum()[None, None]
        value = -0.5 * (squares / sigma**2 + count * _LOG_2PI) - count * np.log(sigma)
        return float(value.sum()), g

    return evaluate
