"""What a configuration may name, and with which arguments."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers_models import configuration

from bench.config.build import build_data, build_model, check_arguments, checked
from bench.config.spec import Evaluation, Hardware, Schedule, typed
from bench.config.trust import check_targets
from bench.errors import UserError

STRANGERS = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "torch.load",
    "torch.hub.load",
    "pandas.read_pickle",
    "numpy.load",
    "shutil.rmtree",
    "pathlib.Path.unlink",
    "hydra.utils.instantiate",
    "functools.partial",
    "models_of_mine.Flow",
    "modelsx.Flow",
    "torch.optimx.Adam",
]
# Reachable through an allowed module, and not of it.
REACHED_THROUGH = [
    "models.base.torch.hub.load",
    "models.flows.realnvp.torch.save",
    "models.base.math.prod",
    "models.base.GenerativeModel.load_from_checkpoint",
    "torch.optim.os.system",
    "models.base",
    "models.",
    ".",
    "",
]


def with_target(target: str, group: str = "model") -> dict[str, Any]:
    config = configuration("vae")
    config[group]["_target_"] = target
    return config


@pytest.mark.parametrize("target", STRANGERS)
@pytest.mark.parametrize("group", ["model", "data"])
def test_foreign_targets_are_refused_with_the_way_to_trust_them(target: str, group: str) -> None:
    with pytest.raises(UserError, match=rf"{group}: .*trust=\[{target.split('.')[0]}\]"):
        check_targets(with_target(target, group))


@pytest.mark.parametrize("target", REACHED_THROUGH)
def test_what_is_only_reachable_through_an_allowed_module_is_refused(target: str) -> None:
    with pytest.raises(UserError, match="_target_"):
        checked(with_target(target))


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("data", "bench.data.bytes.fetch.fetch"),
        ("data", "bench.data.bytes.cache.cache_dir"),
        ("data", "bench.files.durable_write"),
        ("data", "models.vaes.vae.VAE"),
        ("model", "bench.data.toy.two_moons"),
        ("logger", "pytorch_lightning.Trainer"),
    ],
)
def test_a_target_must_be_of_its_groups_kind(group: str, target: str) -> None:
    config = configuration("vae", "logger=csv")
    config[group] = {"_target_": target}
    with pytest.raises(UserError, match="_target_"):
        checked(config)


def test_nested_targets_are_checked_too() -> None:
    config = configuration("vae")
    config["model"]["optimizer"]["_target_"] = "os.system"
    with pytest.raises(UserError, match=r"model\.optimizer: _target_ 'os\.system'"):
        check_targets(config)
    config = configuration("vae")
    config["train"]["hook"] = [{"_target_": "os.system"}]
    with pytest.raises(UserError, match=r"train\.hook\[0\]"):
        check_targets(config)


def test_refusing_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')\n")
    code = (
        "import json, sys\nfrom bench.config.trust import check_targets\nfrom bench.errors import UserError\n"
        "try:\n    check_targets(json.loads(sys.argv[1]))\nexcept UserError:\n"
        "    sys.exit(int('stranger' in sys.modules))\nsys.exit(3)\n"
    )
    config = json.dumps({"model": {"_target_": "stranger.Model"}})
    done = subprocess.run([sys.executable, "-c", code, config], cwd=tmp_path, env=None, timeout=120, check=False)
    assert done.returncode == 0


OWN_MODEL = """
import torch
from models.base import GenerativeModel


class Constant(GenerativeModel):
    family = "baseline"

    def __init__(self, shape, levels, value=0.0):
        super().__init__(shape, levels)
        self.value = torch.nn.Parameter(torch.tensor(float(value)))

    def sample(self, n, *, temperature=1.0, generator=None):
        return (torch.zeros(n, *self.shape) + self.value.detach()).to(self.data_dtype)

    def training_step(self, batch, batch_idx):
        return (batch[0].float().mean() - self.value).square()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""


def test_a_trusted_package_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mypkg_of_a_user.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = configuration("vae", "data=two_moons", "trust=[mypkg_of_a_user]")
    config["model"] = {"_target_": "mypkg_of_a_user.Constant", "value": 2.0}
    checked(config)
    model = build_model(config["model"], build_data(config["data"]).spec)
    assert type(model).__name__ == "Constant"


def test_unknown_arguments_name_the_nearest() -> None:
    config = configuration("vae")
    config["model"]["latent_dims"] = 3
    with pytest.raises(UserError, match=r"model\.latent_dims: .* takes no such argument; nearest: latent_dim"):
        check_arguments(config)
    config = configuration("vae")
    config["model"]["optimizer"]["learning_rate"] = 3
    with pytest.raises(UserError, match=r"model\.optimizer\.learning_rate"):
        check_arguments(config)


def test_a_bad_argument_is_one_line() -> None:
    config = configuration("vae")
    config["model"]["latent_dim"] = -3
    with pytest.raises(UserError, match=r"^model: models\.vaes\.vae\.VAE could not be made: [^\n]+$"):
        build_model(config["model"], build_data(config["data"]).spec)


@pytest.mark.parametrize(
    ("schema", "node", "complaint"),
    [
        (Schedule, {"batch_size": "many"}, r"train\.batch_size: .*'many'"),
        (Schedule, {"batchsize": 3}, r"train\.batchsize: no such key; nearest: batch_size"),
        (Schedule, {"seconds": [1]}, r"train\.seconds"),
        (Hardware, {"devices": "two"}, r"train\.devices"),
        (Evaluation, {"checkpoints": ["worst"]}, r"evaluate\.checkpoints"),
        (Evaluation, {"n_samples": 1}, "n_samples must be at least 2"),
    ],
)
def test_wrong_types_and_keys_are_named(schema: type, node: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        typed(schema, node, "train")


def test_right_types_make_the_dataclass() -> None:
    made = typed(Schedule, {"examples": None, "seconds": 3, "patience": 2}, "train")
    assert made == Schedule(examples=None, seconds=3.0, patience=2)
    assert made.budget == "3 s, patience 2"
