"""The NUTS engine: nothing integrated out, Pyro's sampler, chains taking turns in one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import torch

from bayesmtl.errors import MissingDependencyError
from bayesmtl.inference.nuts.gradient import Evaluate, value_and_gradient
from bayesmtl.inference.nuts.whitening import Whitening, whitening
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.samplers.progress import iterations
from bayesmtl.samplers.settings import Settings, refuse_checkpoint

NUM_DRAWS = 500  # by default, per chain
_TARGET = 0.8  # mean acceptance
_MOST_DOUBLINGS = 8  # of a trajectory: 255 steps, plenty in whitened coordinates
_AT_ONCE = 200  # draws whose weights are put together at once
_ONE_AT_A_TIME = threading.RLock()


def nuts(problem: LinearPosterior, settings: Settings) -> LinearDraws:
    """Sample hyperparameters, Z and all weights together by the No-U-Turn sampler of Pyro.

    Approximates nothing, and works with every likelihood through its log density alone, so it is the outside
    check of engines that integrate weights out. It pays for that: a step costs time in proportion to the
    number of rows, and the number of quantities sampled grows with the number of tasks. Each task is centred
    or not as its rows ask for (see `bayesmtl.posteriors.linear.joint`); coordinates are scaled by the draws
    of a Laplace approximation, from which chains also start, so that warm-up has little left to learn.
    Chains take turns in one process, and a notebook never waits for another.

    `Fit.check` judges R-hat, effective sample sizes and divergences: a divergence means that the sampler left
    a place where the density bends too sharply, and that the draws may miss what lies there.

    An interrupt (Ctrl-C) after warm-up returns the draws made so far, marked incomplete.

    Source: Hoffman and Gelman (2014); Pyro's implementation draws from trajectories by multinomial weights.

    Raises:
        KeyboardInterrupt: If interrupted while nothing is drawn yet.
        MissingDependencyError: If Pyro is not installed.
        SpecificationError: If a checkpoint is asked for.
    """
    refuse_checkpoint(settings, "nuts")
    pyro = import_pyro("nuts")
    num_draws = NUM_DRAWS if settings.num_draws is None else settings.num_draws
    rng = np.random.default_rng(settings.seed)
    white = whitening(problem, settings.num_chains, rng)
    if white.joint.layout.size == 0:  # nothing is unknown
        return collect(white, torch.zeros(settings.num_chains, num_draws, 0, dtype=torch.float64), {}, rng)
    total, complete = settings.num_warmup + num_draws, True
    chains: list[Chain] = []
    with private_randomness(int(rng.integers(2**62))), pyro.validation_enabled(False):
        try:
            for i in iterations(0, total, f"{settings.num_chains} chains", show=settings.progress):
                if not chains:
                    chains = [Chain.start(white, v, settings.num_warmup) for v in white.starts]
                for chain in chains:
                    chain.advance(keep=i >= settings.num_warmup)
        except KeyboardInterrupt:
            if not chains or min(len(chain.stats) for chain in chains) < 4:
                raise
            complete = False
    N = min(len(chain.stats) for chain in chains)
    v = torch.stack([torch.stack(chain.drawn[:N]) for chain in chains])
    stats = np.array([chain.stats[:N] for chain in chains])
    names = ("acceptance_rate", "n_steps", "diverging", "lp", "step_size")
    sample_stats = {name: stats[..., k] for k, name in enumerate(names)}
    sample_stats["n_steps"] = sample_stats["n_steps"].astype(int)
    sample_stats["diverging"] = sample_stats["diverging"] > 0
    return collect(white, v, sample_stats, rng, complete=complete)


@dataclass
class Chain:
    """One chain of Pyro's sampler.

    Args:
        kernel: The sampler.
        params: Where it is.
        evaluations: Log densities evaluated, in a list of one number.
        drawn: Kept points, each (n,).
        stats: Per kept point: acceptance, steps, divergence, log density, step size.
    """

    kernel: Any
    params: dict[str, torch.Tensor]
    evaluations: list[int]
    drawn: list[torch.Tensor] = field(default_factory=list)
    stats: list[tuple[float, ...]] = field(default_factory=list)

    @classmethod
    def start(cls, white: Whitening, v: torch.Tensor, num_warmup: int) -> Chain:
        """A chain before its first iteration."""
        return cls.of_kernel(white, v, num_warmup, target_accept_prob=_TARGET, max_tree_depth=_MOST_DOUBLINGS)

    @classmethod
    def of_kernel(cls, white: Whitening, v: torch.Tensor, num_warmup: int, **options: Any) -> Chain:
        """A chain whose sampler has these options of Pyro's."""
        evaluations, evaluate = [0], value_and_gradient(white)

        def potential(params: dict[str, torch.Tensor]) -> torch.Tensor:
            evaluations[0] += 1
            energy: torch.Tensor = _Energy.apply(params["v"], evaluate)  # type: ignore[no-untyped-call]
            return energy

        kernel = import_pyro("nuts").infer.NUTS(potential_fn=potential, **options)
        params = {"v": v.clone()}
        kernel.initial_params = params
        with torch.enable_grad():
            kernel.setup(num_warmup)
        return cls(kernel, params, evaluations)

    def advance(self, *, keep: bool) -> None:
        """One iteration."""
        before, number = self.evaluations[0], len(self.stats)
        divergences, mean = len(self.kernel._divergences), self.kernel._mean_accept_prob
        with torch.enable_grad():
            self.params = self.kernel.sample(self.params)
        if keep:
            # Pyro keeps the mean over iterations since warm-up
            acceptance = self.kernel._mean_accept_prob * (number + 1) - (mean * number if number else 0.0)
            self.drawn.append(self.params["v"].detach().clone())
            self.stats.append(
                (
                    acceptance,
                    self.evaluations[0] - before,
                    len(self.kernel._divergences) - divergences,
                    -float(self.kernel._potential_energy_last),
                    self.kernel.step_size,
                )
            )


class _Energy(torch.autograd.Function):
    """Minus a log density that comes with its gradient, as Pyro wants it."""

    @staticmethod
    def forward(ctx: Any, v: torch.Tensor, evaluate: Evaluate) -> torch.Tensor:
        value, gradient = evaluate(v.detach().numpy())
        ctx.gradient = torch.from_numpy(gradient)
        return v.new_tensor(-value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.gradient * grad_outputs[0], None


def collect(
    white: Whitening,
    v: torch.Tensor,
    sample_stats: dict[str, np.ndarray],
    rng: np.random.Generator,
    *,
    complete: bool = True,
) -> LinearDraws:
    """Draws from whitened points (C, N, n)."""
    C, N, _ = v.shape
    parts = []
    for some in v.flatten(0, 1).split(_AT_ONCE):
        with torch.no_grad():
            state = white.joint.state(white.to_x(some))
            parts.append((state, white.joint.factors(state, rng)))

    def together(tensors: list[torch.Tensor]) -> torch.Tensor:
        whole = torch.cat(tensors)
        return whole.reshape(C, N, *whole.shape[1:])

    names = [parameter.name for parameter in white.joint.problem.space.parameters]
    return LinearDraws(
        {name: together([state.values[name] for state, _ in parts]) for name in names},
        together([state.basis for state, _ in parts]),
        together([state.weights for state, _ in parts]),
        together([factors for _, factors in parts]),
        sample_stats,
        complete,
    )


@contextmanager
def private_randomness(seed: int) -> Iterator[None]:
    """Torch's global random state, which Pyro draws from, is the engine's own for a while.

    One run at a time: that state is shared by all threads, and so are Pyro's handlers.
    """
    with _ONE_AT_A_TIME:
        yield from _own_randomness(seed)


def _own_randomness(seed: int) -> Iterator[None]:
    before = torch.get_rng_state()
    torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
    try:
        yield
    finally:
        torch.set_rng_state(before)


def import_pyro(method: str) -> Any:
    """Pyro, imported when an engine needs it.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        return import_module("pyro")
    except ImportError as error:
        raise MissingDependencyError(
            "method",
            expected=f'an installed Pyro for "{method}"',
            found="none",
            remedy='Install it with pip install "bayesmtl[pyro]", or use another method.',
        ) from error
