"""What every other YAML in conf promises: data sets, metrics, trainers, loggers, experiments."""

import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from contract import check_description
from helpers_data import check_data, encoded, examples
from helpers_metrics import ORIGIN
from helpers_models import OURS, configuration, names, new_model, small_data, small_graphs
from helpers_molecules import TEST, TRAIN, small_chemnet, small_molecules

from bench.checkpoint import Progress
from bench.config.build import build_data, build_metrics, build_probes, checked
from bench.config.catalogue import GROUPS, Catalogue, listing
from bench.config.compose import compose_runs
from bench.data.base import Modes
from bench.data.bytes.cache import cache_dir
from bench.data.toy import eight_gaussians
from bench.errors import UserError
from bench.evaluation.evaluate import evaluate
from bench.features.base import Recipe
from bench.probe import Probe
from bench.schema import Estimate, GraphSpec, Kind, Status
from bench.subjects.base import Subject
from bench.subjects.examples import Examples
from bench.subjects.molecules import GivenMolecules
from bench.subjects.samples import GivenSamples
from bench.subjects.trained import TrainedModel

# 110 and 139 MB to fetch, 3 GB to decode: once in a while is enough.
LARGE = {"cifar10", "moses", "qm9", "dsprites", "mnist_binarized"}
# Files that only the user can bring, or many gigabytes: test_data_celeba.py and test_data_imagenet.py have small ones.
BROUGHT = {"celeba", "imagenet32", "imagenet64", "imagenet32_chrabaszcz", "imagenet64_chrabaszcz", "zinc250k"}

# Networks that lie elsewhere: tests/test_inception.py, test_dinov2.py and test_networks.py have small ones instead.
FETCHED = {"dinov2_vitl14", "dinov2_vits14", "efficientnet_lite0", "inception", "sscd"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in names("data")]
)
def test_data_agree_with_their_specification(name: str, tmp_path: Path) -> None:
    given = []
    if name == "csv":  # what its YAML leaves open: a user's table
        rows = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).tolist()
        (tmp_path / "table.csv").write_text("a,b,c\n" + "".join(f"{a},{b},{round(9 * c)}\n" for a, b, c in rows))
        given = [f"data.path={tmp_path / 'table.csv'}"]
    if name == "image_folder":  # a user's pictures
        for k, image in enumerate(examples(20, (3, 6, 5), 0)[0]):
            (tmp_path / f"{k}.png").write_bytes(encoded(image))
        given = [f"data.path={tmp_path}"]
    config = configuration("gaussian", f"data={name}", *given)
    checked(config)
    if name in BROUGHT:
        with pytest.raises(UserError, match="put the right file there"):
            build_data(config["data"] | {"path": str(tmp_path)})
        return
    try:
        data = build_data(config["data"])
    except UserError as error:
        pytest.skip(f"its bytes cannot be had here: {error}")
    title = config["data"].get("title")
    check_data(data, name if title is None else f"{name}-{title}")
    again = build_data(configuration("gaussian", f"data={name}", "seed=99", *given)["data"])
    assert torch.equal(data.train.x, again.train.x), "a split never moves with the run's seed"
    assert torch.equal(data.test.x, again.test.x)
    if name in LARGE:
        shutil.rmtree(cache_dir() / name)  # pytest keeps the folders of its last runs


@pytest.mark.parametrize("name", names("metric"))
def test_metrics_make_what_they_announce(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every metric applies to a flow on labelled pictures, but those of a posterior, a decoder, classes, the plane.
    plane = name in ("kl_divergence", "wasserstein")
    of_classes = dict.fromkeys(("class_likelihood", "classification"), "realnvp_conditional")
    model_name = {"latent": "vae_conv", "ais": "vae", "path_length": "vae", **of_classes}.get(
        name, "linear" if plane else "realnvp_small"
    )
    other = ["metric.ood.data=mnist5k"] if name == "ood" else []
    few = [f"metric.ais.{size}" for size in ("temperatures=2", "most_temperatures=4")] if name == "ais" else []
    few += ["metric.kl_divergence.points=64"] if name == "kl_divergence" else []
    few += ["metric.classification.steps=20"] if name == "classification" else []
    # Four for each of the classifier's features; enough for some class.
    n = {"fid_infinity": 300, "support_by_class": 200}.get(name, 64)
    config = configuration(
        model_name, f"metric=[{name}]", f"evaluate.n_samples={n}", "evaluate.n_draws=2", *few, *other
    )
    checked(config)
    metrics = build_metrics(config["metric"])
    if name == "ood":  # of the same shape
        metrics["ood"].other = small_data((1, 8, 8), 256, n=20, held_out=20)
    bright_or_dark = Modes(2, lambda x: (x.flatten(1).float().mean(1) > 127.5).long())
    pictures = small_data((1, 8, 8), 256, n=200, held_out=n if n > 64 else 40)
    data = replace(pictures, modes=bright_or_dark, valid=lambda x: bright_or_dark.assign(x) == 1)
    data = eight_gaussians(n_train=10, n_val=50, n_test=50) if plane else data
    if name == "optimum":  # as if all pictures were equally likely
        data = replace(data, log_density=lambda x: torch.full((len(x),), -x[0].numel() * math.log(256)).double())
    model = new_model(model_name, data.spec)
    subject: Subject = TrainedModel(
        model, Progress(examples_seen=10, train_seconds=1.0, history=[[float(n), 1.0] for n in range(5)]), 0, ORIGIN
    )
    if name in ("birthday", "support_size", "support_by_class"):  # of an untrained flow's noise they are inconclusive
        subject = GivenSamples(data.train.x[:n], 0, ORIGIN)
    if name == "general":
        data = small_graphs(GraphSpec(3, 2, 1), Kind.GRAPHS)
        subject = TrainedModel(new_model("rvae", data.spec), None, 0, ORIGIN, make=partial(new_model, "rvae"))
    if name in ("fcd", "library_size", "molecules"):
        small_chemnet(monkeypatch)
        data = small_molecules()
        subject = GivenMolecules(TRAIN + TEST, 0, ORIGIN)
    context = Examples(subject, data, seed=0)
    assert list(metrics) == [name]
    infos = metrics[name].infos(context)
    estimates = evaluate(context, metrics)[name]
    assert [estimate.info for estimate in estimates] == list(infos)
    assert all(info.name and info.title and info.version >= 1 for info in infos)
    assert [estimate for estimate in estimates if estimate.status is Status.FAILED] == []
    assert any(estimate.status is Status.OK for estimate in estimates)
    again: list[Estimate] = evaluate(Examples(subject, data, seed=0), metrics)[name]
    timed = {"train_examples_per_second", "samples_per_second"}
    values = [estimate.value for estimate in estimates if estimate.info.name not in timed]
    repeated = [estimate.value for estimate in again if estimate.info.name not in timed]
    assert values == repeated, "the same seed gives the same numbers"


@pytest.mark.parametrize("name", names("experiment"))
def test_experiments_compose_and_pass_their_checks(name: str) -> None:
    runs = compose_runs([f"experiment={name}"])
    assert runs
    for config in runs:
        checked(config)


@pytest.mark.parametrize("group", ["trainer", "logger"])
def test_other_groups_compose_and_pass_their_checks(group: str) -> None:
    for name in names(group):
        if name != "tensorboard":  # an extra
            checked(configuration("vae", f"{group}={name}"))


@pytest.mark.parametrize("name", names("probe"))
def test_probes_are_probes(name: str) -> None:
    config = configuration("vae", f"probe=[{name}]")
    assert checked(config).training_key == checked(configuration("vae")).training_key, "a probe changes no training"
    (probe,) = build_probes(config["probe"])
    assert isinstance(probe, Probe)


@pytest.mark.parametrize("name", names("features"))
def test_features_name_themselves_for_every_data_set(name: str) -> None:
    node = Catalogue.of().stored("features", name)
    assert node is not None
    if "???" in node.values():
        pytest.skip("is completed by the user")
    fid = configuration("vae", "metric=[fid]", f"metric.fid.features={name}")
    checked(fid)
    recipe = build_metrics(fid["metric"])["fid"].recipe
    assert isinstance(recipe, Recipe)
    data = small_data((1, 8, 8), 256, n=200, held_out=40)
    assert recipe.lacks(data) == ""
    if name not in FETCHED:
        assert recipe.extractor(data).name == recipe.name(data.spec)
    reals = small_data((5,), None)
    assert recipe.lacks(reals) == "" or "small" in recipe.lacks(reals)


GROUPS_ON_DISK = sorted(folder.name for folder in OURS.iterdir() if any(folder.glob("*.yaml")))


@pytest.mark.parametrize("group", GROUPS_ON_DISK)
def test_every_file_describes_itself(group: str) -> None:
    for name in names(group):
        check_description(OURS / group / f"{name}.yaml")
        if group in GROUPS.values():
            assert name in listing([], Catalogue.of())


@pytest.mark.parametrize("group", GROUPS_ON_DISK)
def test_a_file_without_a_description_is_noticed(group: str, tmp_path: Path) -> None:
    content = "_target_: theirs.Theirs\nwidth: 3 # units\n# test: width=1\n"
    headers = ["", "# @package _global_\n", "# test: width=1\n", "#\n"]
    for number, header in enumerate(headers):
        file = tmp_path / group / f"theirs_{number}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(header + content)
        with pytest.raises(AssertionError, match=rf"theirs_{number}\.yaml"):
            check_description(file)
    file.write_text("# @package _global_\n# A file of theirs\n" + content)
    check_description(file)
