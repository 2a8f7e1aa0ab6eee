"""Chem97 (31,022 pupils, 2,410 school identifiers): full posterior, every coefficient varying by school."""

from __future__ import annotations

import numpy as np
import pandas as pd

import bayesmtl as bm
from bayesmtl.inference.exact import exact
from bayesmtl.samplers.settings import Settings
from benchmarks.common import Options, Watch, bulk_ess, main, prepare, rhat, table, verdict

MODEL = bm.LinearModel(sharing=bm.Hierarchical(), likelihood=bm.Gaussian())
LIMIT = 60.0
_ESS_CHUNK = 400


def run(options: Options) -> str:
    chem97 = bm.datasets.load("chem97")
    data = bm.TaskData.from_frame(
        chem97.frame, task=chem97.task, target=chem97.target, features=list(chem97.features)
    )
    length = {}
    if options.reduced:
        data = data.select_tasks(data.task_names[:30])
        length = {"num_draws": 40, "num_warmup": 40}
    gather, sample = Watch(), Watch()
    with gather.running():
        problem = prepare(MODEL, data)
    with sample.running():
        draws = exact(problem, Settings(seed=0, progress=False, **length))
    C, N = draws.weights.shape[:2]
    scale = draws.hyperparameters["residual_scale"].abs().numpy()
    noise = draws.hyperparameters["noise"].numpy()[..., None]
    shared = np.concatenate([draws.basis[:, :, 0].numpy(), scale, noise], axis=-1)
    weights = draws.weights.reshape(C, N, -1).numpy()
    chunks = [weights[:, :, i : i + _ESS_CHUNK] for i in range(0, weights.shape[2], _ESS_CHUNK)]
    ess = {
        "population, scales, noise": float(bulk_ess(shared).min()),
        "all weights": min(float(bulk_ess(chunk).min()) for chunk in chunks),
    }
    shown = pd.DataFrame(
        {
            "rows": [f"{data.num_rows:,}"],
            "tasks": [f"{data.num_tasks:,}"],
            "columns": [data.num_features],
            "draws": [C * N],
            "pass over the data, s": [gather.wall],
            "sampling, s": [sample.wall],
            **{f"smallest ESS, {name}": [f"{value:.0f}"] for name, value in ess.items()},
            "largest R-hat, shared": [f"{float(rhat(shared).max()):.4f}"],
        },
        index=pd.Index(["bayesmtl, exact"], name="program"),
    )
    seconds = gather.wall + sample.wall
    lines = [
        table(shown),
        "",
        verdict(f"under {LIMIT:.0f} s", ok=seconds < LIMIT, found=f"{seconds:.1f} s"),
        verdict("smallest ESS at least 400", ok=min(ess.values()) >= 400, found=f"{min(ess.values()):.0f}"),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main("chem97", "Chem97: the full posterior", run)
