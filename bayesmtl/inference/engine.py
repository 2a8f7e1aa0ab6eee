"""What an engine declares: which posteriors it takes, how its draws come about, what it approximates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from bayesmtl.posteriors.posterior import Trait
from bayesmtl.samplers.settings import Settings

Come = Literal["chains", "weighted", "bound", "mode"]
"""How draws come about, which says how `Fit.check` judges them."""


@dataclass(frozen=True)
class Engine:
    """A sampler chosen for a kind of posterior.

    Args:
        name: What `fit(method=...)` calls it; engines for different posteriors may share a name.
        run: From a posterior and settings to its `Draws`.
        draws: How its draws come about.
        needs: Traits that a posterior must have.
        cannot: Traits that it must not have.
        seconds: Rough CPU seconds of a default run, for "auto"; `None` for engines that it never chooses.
        resumes: Whether it writes checkpoints and goes on from them.
        approximates: What its answer leaves out, in a sentence.
        tells: Which way a run took, in words, for engines that have several.
    """

    name: str
    run: Callable[[Any, Settings], Any]
    draws: Come
    needs: frozenset[Trait] = frozenset()
    cannot: frozenset[Trait] = frozenset()
    seconds: Callable[[Any], float] | None = None
    resumes: bool = False
    approximates: str = ""
    tells: Callable[[Any], str] | None = None

    def reason(self, why: str, draws: Any) -> str:
        """Why this engine, and which way it took where it has several."""
        return why if self.tells is None else f"{why}; {self.tells(draws)}"

    def takes(self, traits: frozenset[Trait]) -> bool:
        """Whether it can work with a posterior of these traits."""
        return self.needs <= traits and not self.cannot & traits
