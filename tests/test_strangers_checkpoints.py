"""Checkpoints of strangers that attack: no code, no endless work, no counts beyond all real work."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_runs import TINY
from helpers_strangers import audited

from bench.checkpoint import Progress, load_checkpoint, save_checkpoint, stored_config
from bench.cli.main import main
from bench.config.compose import compose_runs
from bench.config.limits import check_sizes
from bench.config.spec import RunSpec
from bench.errors import UserError


class Touch:
    """Unpickling this makes a folder."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("victim",))


def shared(levels: int, make: Any = list) -> Any:
    """A list of two that are one list of two, and so on: a few bytes that unfold to 2 ** levels."""
    value: Any = make()
    for _ in range(levels):
        value = make([value, value])
    return value


@pytest.mark.parametrize("attack", ["object", "target", "text", "logger", "shared"])
def test_a_refused_checkpoint_has_no_side_effect(attack: str, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    config = compose_runs(["model=vae", *TINY])[0]
    payload: dict[str, Any] = {"state_dict": {}, "progress": {}}
    if attack == "object":
        payload["extra"] = Touch()
    elif attack == "shared":
        payload["extra"] = shared(40)
    elif attack == "target":
        config["model"] = {"_target_": "stranger.Model"}
        config["trust"] = ["stranger"]
    elif attack == "text":
        config["model"]["optimizer"] = "${oc.create:{_target_:stranger.Model}}"
    else:
        config["logger"] = {"_target_": "stranger.Logger", "name": "../../victim"}
    torch.save({**payload, "config": json.dumps(config)}, folder / "x.ckpt")
    (folder / "stranger.py").write_text("open('victim', 'w')\n")
    code, said, noted = audited(folder, "evaluate", "x.ckpt")
    assert code == 2, said
    assert not noted, noted
    assert not (folder / "victim").exists()


@pytest.mark.parametrize("where", ["extra", "state_dict", "progress", "config", "callbacks"])
@pytest.mark.parametrize("kind", ["lists", "tuples", "dicts"])
def test_shared_entries_are_visited_once(where: str, kind: str, workplace: Path) -> None:
    if kind == "dicts":
        value: Any = {}
        for _ in range(40):
            value = {"a": value, "b": value}
    else:
        value = shared(40, list if kind == "lists" else tuple)
    payload: dict[str, Any] = {"state_dict": {}, "config": "{}", "progress": {}}
    torch.save({**payload, where: value}, workplace / "x.ckpt")
    assert (workplace / "x.ckpt").stat().st_size < 10_000
    begun = time.monotonic()
    assert main(["evaluate", "x.ckpt"]) == 2
    assert time.monotonic() - begun < 60


def test_what_is_shared_a_little_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.ckpt", {"x": shared(10), "t": shared(10, tuple)})
    assert load_checkpoint(tmp_path / "a.ckpt")["x"] == shared(10)


def test_a_key_whose_hash_never_ends_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """The hash of a tuple visits shared tuples again and again, and unpickling a dict asks for it."""
    key: Any = shared(16, tuple)
    torch.save({"state_dict": {key: 1}}, tmp_path / "x.ckpt")
    begun = time.monotonic()
    with pytest.raises(UserError, match="tuples that are shared too often"):
        load_checkpoint(tmp_path / "x.ckpt")
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    "progress",
    [{"commit": ["a"]}, {"examples_seen": "many"}, {"history": [1]}, {"train_seconds": None}, {"device": "d" * 10_000},
     {"best_score": {}}, {"dirty": "no"}],
    ids=str,
)  # fmt: skip
def test_a_progress_of_other_kinds_is_refused(progress: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Progress.of(progress)


def test_a_configuration_of_any_size_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.ckpt", {"config": json.dumps({"name": "n" * 2_000_000})})
    with pytest.raises(UserError, match="2,000,012 characters"):
        stored_config(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.couplings", 10**9, r"model\.couplings=1000000000: is beyond 10,000"),
        ("model.layers", 10**6, r"model\.layers"),
        ("model.hidden", [10**9, 64], r"model\.hidden\[0\]=1000000000: is beyond 100,000"),
        ("model.flow.hidden", 10**7, r"model\.flow\.hidden"),
        ("model.kl_warmup", 10**5000, r"model\.kl_warmup=\(a number of 16610 bits\)"),
        ("evaluate.n_samples", 10**12, r"evaluate\.n_samples=1000000000000: is beyond 10,000,000"),
        ("evaluate.n_draws", 10**12, r"evaluate\.n_draws"),
        ("metric.fid.n_samples", 10**12, r"metric\.fid\.n_samples"),
        ("data.n_train", 10**12, r"data\.n_train"),
        ("data.size", 10**6, r"data\.size"),
        ("trainer.devices", 10**6, r"trainer\.devices"),
        ("train.batch_size", 10**12, r"train\.batch_size"),
        ("name", "n" * 2_000_000, r"name: has a text of 2,000,000 characters"),
        ("model.n" + "n" * 5000, 1, r"text of 5,001 characters"),
        ("model.hidden", [1] * 30_000, r"more than 20,000 keys and values"),
        ("model.a." + ".".join("b" * 40), 1, r"nested more than 32 levels"),
    ],
    ids=lambda value: str(value)[:30] if not isinstance(value, int) else "",
)
def test_counts_beyond_all_real_work_are_refused_by_name(key: str, value: Any, said: str) -> None:
    config = compose_runs(["model=vae", "data=two_moons"])[0]
    RunSpec.parse(config)
    *path, last = key.split(".")
    node = config
    for part in path:
        node = node.setdefault(part, {})
    node[last] = value
    with pytest.raises(UserError, match=said):
        RunSpec.parse(config)


def test_every_configuration_of_ours_is_within_the_limits() -> None:
    for name in ("toys", "tabular", "quickstart", "mnist_realnvp"):
        for config in compose_runs([f"experiment={name}"], multirun=True):
            check_sizes(config)
