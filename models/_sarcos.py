"""Seven torques of a robot arm from few states: data, splits, baselines and scores that pages share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from _common import load

import bayesmtl as bm

Predict = Callable[[pd.DataFrame], np.ndarray]
Learn = Callable[[bm.TaskData, int], Predict]
"""A method learns from training rows, given a seed, and returns what predicts torques of other rows."""

NUM_SPLITS = 2
TRUNK = bm.trunks.mlp(hidden=[64], out=16, activation="tanh")


def splits(num_states: int, *, reduced: bool) -> Iterator[tuple[bm.TaskData, pd.DataFrame]]:
    """Training data of random states, all seven torques of each, and the rows of 1,000 others."""
    dataset = load("sarcos")
    features = list(dataset.features)[: 4 if reduced else None]
    states = dataset.frame["state"].unique()
    for seed in range(1 if reduced else NUM_SPLITS):
        chosen = np.random.default_rng(seed).permutation(states)
        inside, outside = (
            dataset.frame[dataset.frame["state"].isin(part)] for part in _parts(chosen, num_states)
        )
        data = bm.TaskData.from_frame(inside, task="torque", target="newton_metres", features=features)
        yield data.with_target_standardization("task"), outside.reset_index(drop=True)


def _parts(states: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    return states[:number], states[number : number + 1000]


def error(test: pd.DataFrame, predicted: np.ndarray) -> float:
    """Mean squared error over the variance of each torque, averaged over the seven, in per cent."""
    square = (test["newton_metres"] - predicted) ** 2
    by_torque = square.groupby(test["torque"]).mean() / test.groupby("torque")["newton_metres"].var()
    return float(100 * by_torque.mean())


def linear(sharing: bm.sharing.Sharing) -> Learn:
    """A linear model, hyperparameters at their mode."""

    def learn(data: bm.TaskData, seed: int) -> Predict:
        model = bm.LinearModel(sharing, bm.Gaussian(noise="task"))
        fit = model.fit(data, method="empirical_bayes", seed=seed, num_draws=100, progress=False)
        return lambda test: np.asarray(fit.predict(test).mean)

    return learn


def network(sharing: bm.sharing.Sharing, *, reduced: bool) -> Learn:
    """One trunk for all torques, and a head for each under a sharing prior."""

    def learn(data: bm.TaskData, seed: int) -> Predict:
        model = bm.DeepModel(TRUNK, sharing, bm.Gaussian(noise="task"), members=2, inputs="columns")
        length = {"steps": 20 if reduced else 1000, "num_draws": 50, "progress": False}
        fit = model.fit(data, seed=seed, learning_rate=0.01, **length)
        return lambda test: np.asarray(fit.predict(test).mean)

    return learn


def separate(*, reduced: bool) -> Learn:
    """The same network for every torque by itself: nothing is shared."""

    def learn(data: bm.TaskData, seed: int) -> Predict:
        own = network(bm.Independent(), reduced=reduced)
        of_torque = {name: own(data.select_tasks([name]), seed) for name in data.task_names}

        def predict(test: pd.DataFrame) -> np.ndarray:
            predicted = np.empty(len(test))
            for name, rows in test.groupby("torque").indices.items():
                predicted[rows] = of_torque[str(name)](test.iloc[rows])
            return predicted

        return predict

    return learn


def measure(methods: Mapping[str, Learn], num_states: int, *, reduced: bool) -> pd.DataFrame:
    """The error of every method on every split."""
    return pd.DataFrame(
        {name: error(test, learn(data, seed)(test)) for name, learn in methods.items()}
        for seed, (data, test) in enumerate(splits(num_states, reduced=reduced))
    )
