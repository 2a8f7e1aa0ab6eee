"""Models as NumPyro programs: every weight latent, weights collapsed by hand, signed scales; outcomes.

All have our priors on standardised data: mu ~ N(0, I), tau_d and sigma ~ half-normal(1),
w_t ~ N(mu, diag(tau^2)). NUTS runs as it comes (diagonal metric, target acceptance .8), its chains one after
the other, which on one core is faster than in a batch that waits for its longest tree. Finding a start and
compilation are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import NUTS

import bayesmtl as bm
from benchmarks.common import Watch

jax.config.update("jax_enable_x64", True)

Model = Callable[[], None]


@dataclass(frozen=True)
class Rows:
    """Standardised rows, and the same reduced to r rotated rows per task.

    Args:
        X: Features (n, D).
        y: Targets (n,).
        task: Task of each row (n,).
        num_tasks: T.
        level: Known part of every linear predictor, where the prior's means of levels lie.
    """

    X: np.ndarray
    y: np.ndarray
    task: np.ndarray
    num_tasks: int
    level: float = 0.0

    def rotated(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """F (T, r, D), c (T, r), residual sums of squares (T,) and counts (T,); r is the largest rank.

        With X_t'X_t = V diag(s^2) V', F_t = diag(s) V' and c_t = diag(1/s) V'X_t'y_t; zero rows pad.
        """
        D = self.X.shape[1]
        parts = []
        for t in range(self.num_tasks):
            X, y = self.X[self.task == t], self.y[self.task == t]
            _, s, V = np.linalg.svd(X, full_matrices=False)
            s, V = s[s > 1e-6 * s[0]], V[s > 1e-6 * s[0]]
            c = (V @ (X.T @ y)) / s
            parts.append((s[:, None] * V, c, y @ y - c @ c, len(y)))
        r = max(len(c) for _, c, _, _ in parts)
        F, c = np.zeros((self.num_tasks, r, D)), np.zeros((self.num_tasks, r))
        for t, (F_t, c_t, _, _) in enumerate(parts):
            F[t, : len(c_t)], c[t, : len(c_t)] = F_t, c_t
        return F, c, np.array([p[2] for p in parts]), np.array([float(p[3]) for p in parts])


def of_outcomes(model: bm.LinearModel, data: bm.TaskData) -> Rows:
    """The rows that a model of outcomes sees, and the level that it centres its linear predictor at."""
    scales = model.likelihood.standardization(data)
    X = scales.standardize_features(data.X)
    return Rows(X, data.y, data.task, data.num_tasks, level=float(scales.target_center[0]))


def every_weight_latent(rows: Rows) -> Model:
    """The program that one writes first, non-centred."""
    X, y, task = jnp.asarray(rows.X), jnp.asarray(rows.y), jnp.asarray(rows.task)
    D = X.shape[1]

    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([D]).to_event(1))
        tau = numpyro.sample("tau", dist.HalfNormal(1.0).expand([D]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([rows.num_tasks, D]).to_event(2))
        weights = mu + tau * z
        numpyro.sample("y", dist.Normal((X * weights[task]).sum(-1), sigma), obs=y)

    return model


def logistic(rows: Rows) -> Model:
    """Yes/no outcomes, every weight latent, non-centred: mu ~ N(0, I), tau_d ~ half-normal(1)."""
    X, y, task = jnp.asarray(rows.X), jnp.asarray(rows.y), jnp.asarray(rows.task)
    D = X.shape[1]

    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([D]).to_event(1))
        tau = numpyro.sample("tau", dist.HalfNormal(1.0).expand([D]).to_event(1))
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([rows.num_tasks, D]).to_event(2))
        weights = numpyro.deterministic("weights", mu + tau * z)
        numpyro.sample("y", dist.Bernoulli(logits=rows.level + (X * weights[task]).sum(-1)), obs=y)

    return model


def collapsed(rows: Rows, *, signed: bool) -> Model:
    """The weights integrated out by hand: c_t ~ N(F_t mu, sigma^2 I + F_t diag(tau^2) F_t').

    With `signed`, tau_d ~ N(0, 1): the same prior of |tau|, without the edge at zero.
    """
    F, c, residual, count = (jnp.asarray(part) for part in rows.rotated())
    D, r = F.shape[2], F.shape[1]
    scale_prior = dist.Normal(0.0, 1.0) if signed else dist.HalfNormal(1.0)

    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([D]).to_event(1))
        tau = numpyro.sample("tau", scale_prior.expand([D]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        root = F * tau
        C = root @ jnp.swapaxes(root, 1, 2) + sigma**2 * jnp.eye(r)
        L = jnp.linalg.cholesky(C)
        u = jax.scipy.linalg.solve_triangular(L, (c - F @ mu)[..., None], lower=True)[..., 0]
        log_det = (
            2 * jnp.log(jnp.diagonal(L, axis1=1, axis2=2)).sum() + 2 * jnp.log(sigma) * (count - r).sum()
        )
        numpyro.factor("y", -0.5 * (log_det + (u**2).sum() + residual.sum() / sigma**2))

    return model


@dataclass(frozen=True)
class Sampled:
    """What a peer drew before its time was over.

    Args:
        values: By name, each (C, N, ...); empty when a chain did not get through its warm-up.
        watch: Its time.
        finished: Whether it drew all that was asked for.
        num_leapfrogs: Mean leapfrog steps per kept draw.
    """

    values: dict[str, np.ndarray]
    watch: Watch
    finished: bool
    num_leapfrogs: float


def sample(
    model: Model, *, num_warmup: int, num_draws: int, num_chains: int, seed: int, cap: float
) -> Sampled:
    """Run NUTS chain after chain, each for at most its share of `cap` seconds."""
    kernel = NUTS(model)
    keys = jax.random.split(jax.random.PRNGKey(seed), num_chains)
    starts = [kernel.init(key, num_warmup, None, (), {}) for key in keys]
    step = jax.jit(lambda state: kernel.sample(state, (), {}))
    jax.block_until_ready(step(starts[0]))  # compiles
    watch, chains, leapfrogs, finished = Watch(), [], [], True
    for state in starts:
        with watch.running():
            deadline, kept = time.perf_counter() + cap / num_chains, []
            for i in range(num_warmup + num_draws):
                state = jax.block_until_ready(step(state))
                if i >= num_warmup:
                    kept.append(state.z)
                    leapfrogs.append(int(state.num_steps))
                if time.perf_counter() > deadline:
                    finished = finished and len(kept) == num_draws
                    break
        chains.append(kept)
    N = min(map(len, chains))
    if N < 4:
        return Sampled({}, watch, False, float("nan"))
    constrain = jax.jit(lambda z: kernel.postprocess_fn((), {})(z))
    drawn = [[constrain(z) for z in chain[:N]] for chain in chains]
    values = {
        name: np.array([[np.asarray(point[name]) for point in chain] for chain in drawn])
        for name in drawn[0][0]
    }
    return Sampled(values, watch, finished, float(np.mean(leapfrogs)))
