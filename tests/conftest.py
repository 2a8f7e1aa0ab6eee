"""Before anything is imported: one thread and no display. After that: fixtures that several tests share."""

import os

# Tests share the cores among themselves; threads inside one would only wait for each other.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ["MPLBACKEND"] = "Agg"

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

import bayesmtl as bm  # noqa: E402

torch.set_num_threads(1)

# Small enough that a fit takes about a second; such runs are too short to converge and warn about it.
TINY = {"num_chains": 2, "num_draws": 40, "num_warmup": 40, "progress": False}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Write the stated false-alarm probability of every statistical test into reports: see `over_seeds`."""
    for item in items:
        marks = [mark.kwargs for mark in item.iter_markers("statistical")]
        if marks:
            stated = next((mark["false_alarm"] for mark in marks if mark), 1e-4)
            item.user_properties.append(("false_alarm", stated))


@pytest.fixture(scope="session")
def lab_frame() -> pd.DataFrame:
    """Six labs with six rows each, two features of very different size, three missing targets."""
    rng = np.random.default_rng(20)
    lab = np.repeat([f"lab_{number}" for number in (1, 2, 3, 4, 9, 10)], 6)
    frame = pd.DataFrame(
        {"lab": lab, "dose": rng.normal(3.0, 2.0, 36), "age": rng.normal(40.0, 10.0, 36)},
        index=[f"row_{number}" for number in range(36)],
    )
    level, slope = rng.normal(5.0, 2.0, 6).repeat(6), rng.normal(1.0, 0.5, 6).repeat(6)
    frame["yield"] = level + slope * frame["dose"] + 0.05 * frame["age"] + rng.normal(0.0, 0.7, 36)
    frame.loc[["row_4", "row_17", "row_30"], "yield"] = np.nan
    return frame.sample(frac=1.0, random_state=1)


@pytest.fixture(scope="session")
def lab_data(lab_frame: pd.DataFrame) -> bm.TaskData:
    """`lab_frame` as data."""
    return bm.TaskData.from_frame(lab_frame, task="lab", target="yield", features=["dose", "age"])


@pytest.fixture(scope="session")
def lab_fit(lab_data: bm.TaskData) -> bm.Fit:
    """A fit that costs little: empirical Bayes on the labs."""
    return bm.LinearModel().fit(lab_data, method="empirical_bayes", seed=0, **TINY)
