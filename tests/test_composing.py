"""Runs of a sweep that are composed together come to what Hydra composes for each alone."""

import pytest

from bench.config import compose
from bench.config.compose import compose_runs

BASE = ["data=two_moons", "metric=[likelihood]"]


@pytest.mark.parametrize(
    "swept",
    [
        ["model=gaussian,vae", "seed=0,1"],
        ["model=gaussian", "model.shrinkage=0.1,null,'a b'"],
        ["model=realnvp", "model.hidden=8,16", "~model.hidden"],
        ["model=realnvp", "model.hidden={a:1},2", "model.hidden.a=3"],
        ["model=realnvp", "model.couplings=1,2", "+model.more={a:1}", "model.more.a=2"],
        ["model=realnvp", "model.hidden=${seed},[8]", "seed=3,4"],
        ["model=realnvp", "metric.likelihood.n_draws=10,${seed}", "evaluate.n_draws=1,2"],
        ["model=realnvp", "metric=[fid]", "metric.fid.features=pixels,inception"],
        ["data.n_train=7,8", "model=gaussian", "runs_dir=x,y"],
    ],
)
def test_runs_are_what_hydra_composes_for_each(swept: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    together = _made([*BASE, *swept])
    monkeypatch.setattr(compose, "_setting", lambda text: None)
    assert together == _made([*BASE, *swept])


def _made(overrides: list[str]) -> object:
    try:
        return compose_runs(overrides, multirun=True)
    except Exception as error:  # what is refused is refused alike
        return str(error)


def test_twenty_runs_are_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    hydra = compose.compose
    monkeypatch.setattr(compose, "compose", lambda *given, **more: calls.append(given) or hydra(*given, **more))
    rates = ",".join(f"0.{number:02d}" for number in range(1, 11))
    made = compose_runs(["model=gaussian", f"model.shrinkage={rates}", "seed=0,1"], multirun=True)
    assert len(calls) == 1
    assert [(run["model"]["shrinkage"], run["seed"]) for run in made[:3]] == [(0.01, 0), (0.01, 1), (0.02, 0)]
    assert made[0]["model"] is not made[1]["model"]


def test_seeds_are_composed_as_each_alone_would_be() -> None:
    sweep = ["model=vae,linear", "data=two_moons", "seed=0,7", "metric=[fid,likelihood]"]
    alone = [compose_runs([f"model={model}", sweep[1], f"seed={seed}", sweep[3]])[0]
             for model in ("vae", "linear") for seed in (0, 7)]  # fmt: skip
    assert compose_runs(sweep, multirun=True) == alone
    interpolated = [*sweep, "name='of ${seed}'"]
    assert [run["name"] for run in compose_runs(interpolated, multirun=True)] == ["of 0", "of 7", "of 0", "of 7"]
    ranged = compose_runs(["model=vae", "data=two_moons", "seed=range(3)"], multirun=True)
    assert [run["seed"] for run in ranged] == [0, 1, 2]
