"""The Pyro program of a model beside the package's own densities, and samples that come back as a fit."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import bayesmtl as bm
from bayesmtl.errors import DataError, SpecificationError
from bayesmtl.likelihoods import Given
from bayesmtl.parameters import Parameter
from tests.seeds import seeded

pyro = pytest.importorskip("pyro")
NAMES = list("abc")
GRAPH = pd.DataFrame(np.ones((3, 3)) - np.eye(3), index=NAMES, columns=NAMES)
SHARING = {
    "pooled": bm.Pooled(),
    "independent": bm.Independent(scale=bm.HalfStudentT()),
    "isotropic": bm.Hierarchical("isotropic", scale=bm.LogNormal(0.5, 1.0)),
    "hierarchical": bm.Hierarchical(mean_scale=bm.HalfNormal()),
    "full": bm.Hierarchical("full"),
    "low rank": bm.LowRank(1),
    "covariance": bm.TaskCovariance(),
    "graph": bm.TaskGraph(GRAPH),
    "clusters": bm.Clusters(2),
    "dirichlet process": bm.DirichletProcess(),
    "pitman-yor": bm.PitmanYor(),
    "gated": bm.Gated(2, descriptors=["size"]),
}
LIKELIHOODS = {
    "gaussian": ("y", bm.Gaussian()),
    "gaussian by task": ("y", bm.Gaussian(noise="task")),
    "gaussian known": ("y", bm.Gaussian(noise={"a": 0.5, "b": 1.0, "c": 2.0})),
    "student": ("y", bm.StudentT()),
    "bernoulli": ("b", bm.Bernoulli()),
    "probit": ("b", bm.Bernoulli(link="probit")),
    "binomial": ("b", bm.Binomial(trials=3)),
    "poisson": ("c", bm.Poisson()),
    "negative binomial": ("c", bm.NegativeBinomial()),
    "categorical": ("k", bm.Categorical()),
    "mixed": ("m", bm.Mixed({"a": bm.Gaussian(), "b": bm.Bernoulli(), "c": bm.Poisson()})),
}


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(seeded(0))
    rows = pd.DataFrame({"g": np.repeat(NAMES, 5), "x": rng.normal(size=15), "times": rng.integers(1, 3, 15)})
    rows["y"] = 2 + rows["x"] + rng.normal(size=15)
    rows["b"] = (rows["y"] > 2).astype(int)
    rows["c"] = rng.poisson(2, 15)
    rows["k"] = pd.Categorical(np.array(list("uvw"))[np.arange(15) % 3], categories=list("uvw"))
    rows["m"] = np.where(rows["g"] == "a", rows["y"], np.where(rows["g"] == "b", rows["b"], rows["c"]))
    return rows


def data(target: str, weights: bool, sharing: bm.sharing.Sharing) -> bm.TaskData:
    sizes = pd.DataFrame({"size": [1.0, 2.5, 3.0]}, index=NAMES)
    described = {"descriptors": sizes} if sharing.descriptor_names else {}
    counted = {"weights": "times"} if weights else {}
    return bm.TaskData.from_frame(frame(), task="g", target=target, features=["x"], **described, **counted)


def pairs() -> list:
    from bayesmtl.inference import NAMES as ENGINES
    from bayesmtl.inference import handles

    found = []
    for s, sharing in SHARING.items():
        for name, (_, likelihood) in LIKELIHOODS.items():
            if any(handles(engine, sharing, likelihood) for engine in ENGINES):
                found.append(pytest.param(s, name, False, id=f"{s}-{name}"))
                if s == "hierarchical" and name not in ("categorical", "mixed"):  # rows know no sharing prior
                    found.append(pytest.param(s, name, True, id=f"{s}-{name}-weights"))
    return found


def jacobian(parameter: Parameter, point: torch.Tensor) -> torch.Tensor:
    """Log density of a parameter's coordinates less that of its value, for positive values of "signed"."""
    if parameter.space == "signed":
        return point.new_full((len(point),), -math.log(2) * parameter.size)
    if parameter.space == "log":
        return point.sum(1)
    if parameter.space == "correlation" and parameter.size:
        transform = torch.distributions.transforms.CorrCholeskyTransform()
        return transform.log_abs_det_jacobian(point, transform(point))
    return point.new_zeros(len(point))


@pytest.mark.parametrize("sharing, likelihood, weights", pairs())
def test_joint_density(sharing, likelihood, weights):
    """log p(hyperparameters) + log p(Z, E | ...) + log p(y | W) of the package at points that the program
    draws, term by term, to 1e-8."""
    target, of_rows = LIKELIHOODS[likelihood]
    rows = data(target, weights, SHARING[sharing])
    model = bm.LinearModel(SHARING[sharing], of_rows)
    program, problem = model.to_pyro(rows), model._posterior(rows)
    with torch.random.fork_rng():
        torch.manual_seed(seeded(0))
        traces = [pyro.poutine.trace(program).get_trace() for _ in range(10)]
    for trace in traces:
        trace.compute_log_prob()
        site = {name: trace.nodes[name] for name in trace.stochastic_nodes}
        values = {}
        expected = torch.zeros(1, dtype=torch.float64)
        for p in problem.space.parameters:
            if not p.size:
                values[p.name] = p.constrain(torch.zeros(1, 0, dtype=torch.float64))
                continue
            value = site[p.name]["value"][None].double()
            values[p.name] = value
            if p.space == "correlation":
                point = torch.distributions.transforms.CorrCholeskyTransform().inv(value)
            else:
                point = (value.log() if p.space == "log" else value).reshape(1, -1)
            own = p.log_density(point, value) - jacobian(p, point)
            torch.testing.assert_close(own[0], site[p.name]["log_prob_sum"], rtol=1e-8, atol=1e-8)
            expected = expected + own
        T = problem.tasks.num_tasks
        if problem.sharing.dependence is bm.sharing.Dependence.PARTITION:
            cluster = torch.stack([site[f"cluster_{t}"]["value"] for t in range(T)])[None].long()
            values["cluster"] = cluster
            found = sum(site[f"cluster_{t}"]["log_prob_sum"] for t in range(T))
            own = problem.sharing.log_partition(cluster, values, problem.descriptors)
            if not problem.sharing.numbered:  # the urn opens clusters in the order of the tasks
                torch.testing.assert_close(own[0], found, rtol=1e-8, atol=1e-8)
        W = trace.nodes["weights"]["value"][None]
        found = sum(node["log_prob_sum"] for name, node in trace.nodes.items() if node.get("is_observed"))
        torch.testing.assert_close(log_likelihood(program, problem, values, W), found, rtol=1e-8, atol=1e-8)
        if "population" in trace.nodes:
            assert torch.equal(trace.nodes["population"]["value"], site["Z"]["value"][0])


def log_likelihood(program, problem, values, W) -> torch.Tensor:
    """Of the package, in standardised units."""
    if problem.likelihood.compresses:
        return problem.log_likelihood(values, W)[0]
    given, own = program.data, problem.rowwise
    if problem.num_outputs > 1:
        split = W[0].reshape(problem.tasks.num_tasks, problem.num_outputs, -1)
        f = ((split[given["task"]] @ given["X"][..., None])[..., 0] + given["level"]).T[None]
    else:
        f = (given["X"] * W[0][given["task"]]).sum(-1)[None]
    if "offset" in given:
        f = f + given["offset"]
    trials = given.get("trials", torch.full_like(given["y"], getattr(own, "trials", None) or 1.0))
    density = own.value(given["y"], f, Given(values, trials, given["task"]))[0]
    return (density * given.get("counts", torch.ones_like(given["y"]))).sum()


@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian by task", "gaussian known"])
@pytest.mark.parametrize("sharing", [s for s in SHARING if s not in ("clusters", "gated")])
def test_weights_integrate_out_to_the_collapsed_density(sharing, likelihood):
    """The program's log joint is quadratic in Z and E: its integral is exact from the curvature, and equals
    the density that the engines explore, in constrained space."""
    target, of_rows = LIKELIHOODS[likelihood]
    rows = data(target, False, SHARING[sharing])
    model = bm.LinearModel(SHARING[sharing], of_rows)
    program, problem = model.to_pyro(rows), model._posterior(rows)
    with torch.random.fork_rng():
        torch.manual_seed(seeded(1))
        for _ in range(3):
            check_integral(program, problem)


def check_integral(program, problem) -> None:
    trace = pyro.poutine.trace(program).get_trace()
    gaussian = [name for name in ("Z", "e", "u") if name in trace.nodes]
    held = {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes if name not in gaussian}
    shapes = [trace.nodes[name]["value"].shape for name in gaussian]
    sizes = [math.prod(shape) for shape in shapes]

    def joint(flat: torch.Tensor) -> torch.Tensor:
        parts = {
            name: part.reshape(shape)
            for name, part, shape in zip(gaussian, flat.split(sizes), shapes, strict=True)
        }
        conditioned = pyro.poutine.condition(program, data=held | parts)
        return pyro.poutine.trace(conditioned).get_trace().log_prob_sum()

    zero = torch.zeros(sum(sizes), dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(joint, zero)
    precision = -torch.autograd.functional.hessian(joint, zero)
    integral = joint(zero) + 0.5 * gradient @ torch.linalg.solve(precision, gradient)
    integral = integral + 0.5 * len(zero) * math.log(2 * math.pi) - 0.5 * torch.linalg.slogdet(precision)[1]
    points, correction = [], torch.zeros(1, dtype=torch.float64)
    for p in problem.space.parameters:
        if not p.size:
            continue
        value = held[p.name][None].double()
        if p.space == "correlation":
            point = torch.distributions.transforms.CorrCholeskyTransform().inv(value)
        else:
            point = (value.log() if p.space == "log" else value).reshape(1, -1)
        points.append(point)
        correction = correction + jacobian(p, point)
    point = torch.cat(points, dim=1) if points else torch.zeros(1, 0, dtype=torch.float64)
    if problem.sharing.dependence is bm.sharing.Dependence.PARTITION:
        cluster = torch.stack([held[f"cluster_{t}"] for t in range(problem.tasks.num_tasks)])[None].long()
        collapsed = problem.given(cluster).log_density(point)
    else:
        collapsed = problem.log_density(point)
    torch.testing.assert_close(integral, (collapsed - correction)[0], rtol=1e-8, atol=1e-7)


# functions


def curves(target: str) -> bm.TaskData:
    return bm.TaskData.from_frame(frame(), task="g", target=target, features=["x"])


FUNCTIONS = {name: SHARING[name] for name in ("pooled", "independent", "isotropic", "low rank", "covariance")}
FUNCTIONS |= {"hierarchical": bm.Hierarchical(), "graph": SHARING["graph"], "process": bm.DirichletProcess()}


@pytest.mark.parametrize("noise", ["shared", "task"])
@pytest.mark.parametrize("sharing", FUNCTIONS)
def test_functions_have_the_collapsed_density(sharing, noise):
    """log p(hyperparameters, y) of the program in constrained space, to 1e-8."""
    model = bm.MultitaskGP(sharing=FUNCTIONS[sharing], likelihood=bm.Gaussian(noise=noise))
    program, posterior = model.to_pyro(curves("y")), model._posterior(curves("y"))
    with torch.random.fork_rng():
        torch.manual_seed(seeded(2))
        for _ in range(10):
            trace = pyro.poutine.trace(program).get_trace()
            trace.compute_log_prob()
            held = {n: trace.nodes[n]["value"][None].double() for n in trace.stochastic_nodes if n != "rows"}
            expected, values = torch.zeros(1, dtype=torch.float64), {}
            for p in posterior.space.parameters:
                if not p.size:
                    values[p.name] = p.constrain(torch.zeros(1, 0, dtype=torch.float64))
                    continue
                value = values[p.name] = held[p.name]
                if p.space == "correlation":
                    point = torch.distributions.transforms.CorrCholeskyTransform().inv(value)
                else:
                    point = (value.log() if p.space == "log" else value).reshape(1, -1)
                expected = expected + p.log_density(point, value) - jacobian(p, point)
            clusters = [name for name in held if name.startswith("cluster_")]
            if clusters:
                values["cluster"] = torch.stack([held[name] for name in clusters], dim=1).long()
                expected = expected + posterior.sharing.sharing.log_partition(values["cluster"], values)
            expected = expected + posterior.log_marginal(values, 1)
            torch.testing.assert_close(trace.log_prob_sum(), expected[0], rtol=1e-8, atol=1e-8)


def test_functions_of_outcomes_and_back():
    model = bm.MultitaskGP(likelihood=bm.Poisson())
    program = model.to_pyro(curves("c"))
    with torch.random.fork_rng():
        torch.manual_seed(seeded(0))
        draws = pyro.infer.Predictive(program, num_samples=6)()
    assert draws["f"].shape[-1] == 15
    fit = program.to_fit({name: value for name, value in draws.items() if name != "y"})
    assert isinstance(fit, bm.FunctionFit) and fit.posterior.sizes["draw"] == 6
    assert np.isfinite(fit.predict(frame().head(3), num_draws=10).mean).all()
    gaussian = bm.MultitaskGP().to_pyro(curves("y"))
    with torch.random.fork_rng():
        torch.manual_seed(seeded(0))
        draws = pyro.infer.Predictive(gaussian, num_samples=6)()
    fit = gaussian.to_fit({name: value for name, value in draws.items() if name != "y"})
    assert np.isfinite(fit.predict(frame().head(3), num_draws=10).mean).all()


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.filterwarnings("ignore")
def test_pyros_sampler_agrees_with_the_exact_engine():
    """Means of weights and population by Pyro's NUTS on the program (400 draws) and by "exact".

    Eight means within five standard errors each of effective sizes that are at least 80 (NUTS) and 400:
    a false alarm about once in 200,000 runs.
    """
    rows = data("y", False, SHARING["hierarchical"])
    program = bm.LinearModel().to_pyro(rows)
    pyro.set_rng_seed(0)
    kernel = pyro.infer.NUTS(program, target_accept_prob=0.9)
    sampler = pyro.infer.MCMC(kernel, num_samples=400, warmup_steps=200, disable_progbar=True)
    sampler.run()
    ours = program.to_fit(sampler.get_samples(group_by_chain=True))
    exact = bm.LinearModel().fit(rows, seed=seeded(0), progress=False)
    for name in ("weights", "population"):
        mine, theirs = ours.posterior[name], exact.posterior[name]
        gap = np.abs(mine.mean(("chain", "draw")) - theirs.mean(("chain", "draw")))
        error = theirs.std(("chain", "draw")) * np.sqrt(1 / 80 + 1 / 400)
        assert (gap < 5 * error).all(), name


def test_samples_come_back_as_a_fit(tmp_path):
    rows = data("y", False, SHARING["full"])
    program = bm.LinearModel(SHARING["full"]).to_pyro(rows)
    draws = pyro.infer.Predictive(program, num_samples=30)()
    posterior = {name: value for name, value in draws.items() if name not in ("y", "weights", "population")}
    fit = program.to_fit(posterior)
    assert isinstance(fit, bm.LinearFit) and fit.posterior.sizes["draw"] == 30
    np.testing.assert_allclose(fit.draws.weights[0], draws["weights"].reshape(30, 3, 2), rtol=1e-12)
    assert fit.predict(rows.to_frame().head(3)).draws.shape == (30, 3)
    assert (
        not fit.condition(rows.to_frame().head(3).assign(g="new"))
        .predict(rows.to_frame().head(2).assign(g="new"))
        .new.any()
    )
    fit.save(tmp_path / "fit.nc")
    assert bm.load(tmp_path / "fit.nc").method == "pyro"
    with pytest.raises(SpecificationError, match="none of 'Z'"):
        program.to_fit({name: value for name, value in posterior.items() if name != "Z"})
    with pytest.raises(SpecificationError, match=r"\(draws, \*\(1, 2\)\)"):
        program.to_fit(posterior | {"Z": posterior["Z"][..., :1]})


def test_the_text_is_what_runs():
    rows = data("y", False, SHARING["hierarchical"])
    program = bm.LinearModel().to_pyro(rows)
    assert repr(program) == program.source
    assert "Z = pyro.sample(" in program.source and "A @ Z" in program.source
    changed = program.source.replace("dist.Normal(f, ", "dist.Laplace(f, ")
    scope = dict(program.names)
    exec(changed, scope)
    trace = pyro.poutine.trace(scope["program"]).get_trace(**program.data)
    assert type(trace.nodes["y"]["fn"]).__name__ == "Laplace"
    sizes = {name: node["value"].shape for name, node in trace.nodes.items() if node["type"] == "sample"}
    assert {"noise", "residual_scale", "Z", "e", "y"} <= set(sizes)
    plates = {frame.name for frame in trace.nodes["e"]["cond_indep_stack"]}
    assert plates == {"tasks"}


def test_what_has_no_program_says_so(tmp_path):
    frame().to_parquet(tmp_path / "rows.parquet")
    sums = bm.TaskData.from_parquet(tmp_path / "rows.parquet", task="g", target="y", features=["x"])
    with pytest.raises(DataError, match="to_pyro"):
        bm.LinearModel().to_pyro(sums)
