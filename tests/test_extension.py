"""A package of somebody's own: a model, data, a metric and features, in every command, installed or not."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.config.catalogue import Catalogue
from bench.config.compose import searched
from bench.errors import UserError
from bench.rows.store import read_rows

ROOT = Path(__file__).resolve().parent.parent

PARTS = """
import torch

from bench.data.base import Data, Split
from bench.features.own import OwnModule
from bench.metrics.base import Metric
from bench.schema import DataSpec, Estimate, MetricInfo, Relation
from models.base import GenerativeModel


class Constant(GenerativeModel):
    family = "baseline"

    def __init__(self, shape, levels, start=0.0):
        super().__init__(shape, levels)
        self.value = torch.nn.Parameter(torch.tensor(float(start)))

    def sample(self, n, *, temperature=1.0, generator=None):
        noise = torch.randn(n, *self.shape, generator=generator)
        return (self.value.detach() + temperature * noise).to(self.data_dtype)

    def training_step(self, batch, batch_idx):
        return (batch[0].float().mean() - self.value).square()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def line(n: int = 64) -> Data:
    x = torch.linspace(-1, 1, 3 * n).reshape(-1, 3)
    spec = DataSpec("line", "r1", (3,), None, n - 32, 16, 16, licence="theirs", source="them")
    return Data(spec, Split(x[:-32]), Split(x[-32:-16]), Split(x[-16:]))


class Width(Metric):
    def infos(self, examples):
        return (MetricInfo("width", "", None, self.version, "width"),)

    def compute(self, examples):
        return [Estimate(self.infos(examples)[0], float(examples.samples(16).std()), relation=Relation.ESTIMATE)]


class Sums(torch.nn.Module):
    def forward(self, x):
        return torch.stack([x.sum(1), x.square().sum(1)], 1)
"""

CONF = {
    "model/theirs.yaml": "# A constant of theirs\n_target_: {package}.parts.Constant\n_convert_: all\nstart: 0.5\n",
    "data/line.yaml": "# A line of theirs\n_target_: {package}.parts.line\n_convert_: all\nn: 96\n",
    "data/short_line.yaml": "# A shorter line of theirs\ndefaults: [line]\nn: 64\n",
    "metric/width.yaml": (
        "# @package metric.width\n# A width of theirs\n_target_: {package}.parts.Width\n_convert_: all\n"
    ),
    "features/sums.yaml": (
        "# Features of theirs\n_target_: bench.features.own.OwnModule\n_convert_: all\nname: sums\n"
        "module:\n  _target_: {package}.parts.Sums\nweights: null\n"
    ),
}
RUN = ["model=theirs", "data=line", "metric=[width,fid]", "metric.fid.features=sums", "train.examples=64",
       "train.validate_every=64", "evaluate.n_samples=32"]  # fmt: skip
NAMED = {"width", "fid[sums]"}


@pytest.fixture(autouse=True)
def _tidy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins with Python's own finders, and leaves no package of another test imported."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("their_pkg", "stranger"):
            del sys.modules[name]


def write_package(folder: Path, package: str = "their_pkg") -> None:
    """A package with its configurations in its own folder ``conf``."""
    code = folder / package
    code.mkdir(parents=True)
    (code / "__init__.py").touch()
    (code / "parts.py").write_text(PARTS)
    for file, text in CONF.items():
        (code / "conf" / file).parent.mkdir(parents=True, exist_ok=True)
        (code / "conf" / file).write_text(text.replace("{package}", package))


def announce(folder: Path, value: str) -> None:
    """What ``pip install`` leaves of a package that announces itself."""
    info = folder / f"{value.split(':')[0].replace('.', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {value.split(':')[0]}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[genbench.packages]\ntheirs = {value}\n")


def genbench(folder: Path, *arguments: str, path: list[Path | str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench", *arguments], cwd=folder, env=environment, capture_output=True,
        text=True, check=False, timeout=300,
    )  # fmt: skip


def measured(folder: Path) -> set[str]:
    rows = read_rows(folder / "results" / "rows" / "line.jsonl")
    return {row.metric for row in rows if row.model == "theirs" and row.value is not None}


def every_command(given: list[str], workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command finds and uses everything of theirs."""
    assert main(["run", *given, *RUN]) == 0, capsys.readouterr().err
    assert measured(workplace) >= NAMED
    (run,) = [folder for folder in (workplace / "runs" / "line").iterdir() if folder.is_dir()]
    for name in ("done.json", "rows.jsonl"):
        (run / name).unlink()
    again = ["evaluate", str(run), *given, "metric=[width,fid]", "metric.fid.features=sums", "out=again.jsonl"]
    assert main(again) == 0, capsys.readouterr().err
    assert {row.metric for row in read_rows(workplace / "again.jsonl")} >= NAMED
    capsys.readouterr()
    assert main(["list", *given]) == 0
    listed = capsys.readouterr().out
    for file in CONF:
        assert len(re.findall(rf"^  {Path(file).stem} +\S.* of theirs$", listed, re.MULTILINE)) == 1, file
    assert main(["data", "list", *given]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"^  line +generated +A line of theirs$", listed, re.MULTILINE), listed
    assert re.search(r"^  short_line +generated +A shorter line of theirs$", listed, re.MULTILINE), listed
    assert main(["data", "where", "short_line", *given]) == 0


def test_an_announced_package_needs_no_words(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = workplace / "site"
    write_package(site)
    announce(site, "their_pkg")
    monkeypatch.syspath_prepend(str(site))
    every_command([], workplace, capsys)


@pytest.mark.parametrize(
    "given",
    [
        ["hydra.searchpath=[pkg://their_pkg.conf]", "trust=[their_pkg]"],
        ["hydra.searchpath=[file://their_pkg/conf]", "trust=[their_pkg]"],
        ["++hydra.searchpath=['file://their_pkg/conf']", "+trust=[their_pkg]"],
    ],
)
def test_a_trusted_package_is_found_in_the_working_folder(
    given: list[str], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_package(workplace)
    if given[0].startswith("+"):
        assert main(["run", "--cfg", "job", *given, *RUN]) == 0
        assert "their_pkg.parts.Constant" in capsys.readouterr().out
    else:
        every_command(given, workplace, capsys)


def test_what_the_guide_says_works_from_the_packages_own_folder(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "adding.md").read_text()
    (command,) = re.findall(r"^genbench run model=mine data=two_moons (.*)$", guide, re.MULTILINE)
    write_package(tmp_path, "my_models")
    done = genbench(tmp_path, "run", *shlex.split(command), *RUN, path=[])
    assert done.returncode == 0, done.stderr
    assert measured(tmp_path) >= NAMED


def test_processes_of_ddp_use_an_announced_package(tmp_path: Path) -> None:
    work, site = tmp_path / "work", tmp_path / "site"
    work.mkdir()
    write_package(site)
    announce(site, "their_pkg:anything")
    two = ["trainer=ddp", "trainer.accelerator=cpu"]
    done = genbench(work, "run", *RUN, *two, path=[site])
    assert done.returncode == 0, done.stderr
    assert measured(work) >= NAMED


@pytest.mark.parametrize("command", [["list"], ["data", "list"], ["run", "model=theirs"]])
def test_an_announcement_in_the_working_folder_is_none(command: list[str], tmp_path: Path) -> None:
    """A folder that somebody else made could announce, and so trust, itself."""
    write_package(tmp_path, "stranger")
    (tmp_path / "stranger" / "__init__.py").write_text("open('ran', 'w')\n")
    announce(tmp_path, "stranger")
    done = genbench(tmp_path, *command, path=["."])
    assert "theirs" not in done.stdout
    assert not (tmp_path / "ran").exists()
    assert done.returncode == (2 if command[0] == "run" else 0), done.stderr


def test_an_installed_package_wins_over_the_working_folder(
    workplace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = tmp_path_factory.mktemp("site")
    write_package(site)
    write_package(workplace)
    (workplace / "their_pkg" / "parts.py").write_text("open('ran', 'w')\n")
    (workplace / "torchmetrics.py").write_text("open('ran', 'w')\n")
    given = ["hydra.searchpath=[pkg://their_pkg.conf]", "trust=[their_pkg]", "rerun=true"]
    for path in ([site], [".", site]):
        done = genbench(workplace, "run", *given, *RUN, path=path)
        assert done.returncode == 0, done.stderr
        assert not (workplace / "ran").exists()


def test_the_first_file_of_a_name_wins(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, folder in enumerate(["one", "two"]):
        (workplace / folder / "data").mkdir(parents=True)
        target = "_target_: bench.data.toy.two_moons\n_convert_: all\n"
        (workplace / folder / "data" / "moons.yaml").write_text(
            f"# Moons of {folder}\n{target}n_train: {number + 71}\n"
        )
        (workplace / folder / "data" / "two_moons.yaml").write_text(f"# Ours no more\n{target}n_train: 5\n")
    search = "hydra.searchpath=[file://one,file://two]"
    assert main(["list", "data", search]) == 0
    listed = capsys.readouterr().out
    assert re.findall(r"^  moons +(.*)$", listed, re.MULTILINE) == ["Moons of one"]
    assert "Ours no more" not in listed
    assert main(["data", "list", search]) == 0
    assert re.findall(r"^  moons +generated +(.*)$", capsys.readouterr().out, re.MULTILINE) == ["Moons of one"]
    for command in (["run", "--cfg", "job", search, "model=gaussian", "data=moons"],
                    ["run", "--cfg", "job", search, "model=gaussian", "data=two_moons"]):  # fmt: skip
        assert main(command) == 0
    printed = capsys.readouterr().out
    assert "n_train: 71" in printed
    assert "n_train: 50000" in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "model=../x"],
        ["run", "model=gaussian", "data=../../x"],
        ["run", "metric=[../x]"],
        ["run", "metric=[likelihood,'../x']"],
        ["run", "+metric=[../x]"],
        ["run", "experiment=../x"],
        ["run", "logger=../x"],
        ["run", "-m", "model=gaussian,../x"],
        ["run", "-m", "metric=[likelihood],[../x]"],
        ["run", "model={outside}"],
        ["run", "metric.fid.features=../../etc/x"],
        ["run", "metric.fid.features={outside}"],
        ["run", "experiment=leads_out"],
        ["run", "experiment=sweeps_out"],
        ["evaluate", "samples=x.npy", "data=../x"],
        ["evaluate", "samples=x.npy", "data=two_moons", "metric=[{outside}]"],
        ["evaluate", "samples=x.npy", "data=two_moons", "metric=[fid]", "metric.fid.features=../../x"],
        ["data", "fetch", "../x"],
        ["data", "verify", "{outside}"],
    ],
)
def test_a_name_never_leads_out_of_the_search_path(
    arguments: list[str], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = workplace / "own"
    (own / "experiment").mkdir(parents=True)
    (own / "experiment" / "leads_out.yaml").write_text("# @package _global_\ndefaults: [override /model: ../x]\n")
    (own / "experiment" / "sweeps_out.yaml").write_text(
        "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {model: '../x,gaussian'}}}\n"
    )
    for place in (own / "x.yaml", workplace / "x.yaml"):
        place.write_text("# What a name must not reach\n_target_: models.baselines.Gaussian\n")
    given = [text.replace("{outside}", str(workplace / "x")) for text in arguments]
    assert main([*given, f"hydra.searchpath=[file://{own}]"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.match(r"genbench: .*no such (model|data|metric|features|experiment|logger)", printed.err), printed.err
    assert printed.err.count("\n") == 1
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    "command",
    [["run", "model=gaussian", "data=two_moons"], ["evaluate", "samples=x.npy"], ["list"], ["data", "list"]],
)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("hydra.searchpath=[file:///nowhere]", r"hydra\.searchpath: file:///nowhere: no such folder"),
        ("hydra.searchpath=[pkg://no_such_pkg.conf]", r"hydra\.searchpath: pkg://no_such_pkg\.conf: no such folder"),
        ("hydra.searchpath=[pkg://their_pkg.conf]", r"hydra\.searchpath: pkg://their_pkg\.conf: no such folder"),
        ("hydra.searchpath=[3]", r"hydra\.searchpath=\[3\]: a list of folders"),
        ("trust=their_pkg", r"trust='their_pkg': a list of packages"),
    ],
)
def test_every_command_refuses_the_same(
    command: list[str], given: str, said: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_package(workplace)
    assert main([*command, given]) == 2
    printed = capsys.readouterr()
    assert re.match(rf"genbench: {said}", printed.err), printed.err
    assert printed.err.count("\n") == 1


def test_one_file_that_cannot_be_read_hides_no_other(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = workplace / "own" / "data"
    data.mkdir(parents=True)
    (data / "torn.yaml").write_text("# Torn\na: [1\n")
    (data / "latin.yaml").write_bytes(b"# Gr\xf6\xdfe\n")
    (data / "baseless.yaml").write_text("# Without a base\ndefaults: [nothing]\n")
    search = f"hydra.searchpath=[file://{workplace / 'own'}]"
    assert main(["list", "data", search]) == 0
    assert main(["data", "list", search]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^  torn +cannot be read +Torn$", printed, re.MULTILINE)
    assert re.search(r"^  baseless +cannot be composed +Without a base$", printed, re.MULTILINE)
    assert re.search(r"^  two_moons +generated", printed, re.MULTILINE)


def test_a_key_is_explained_with_the_users_own_files(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_package(workplace)
    command = ["run", "hydra.searchpath=[pkg://their_pkg.conf]", "trust=[their_pkg]", "model=theirs", "model.strat=1"]
    assert main(command) == 2
    assert "model.strat: no such key; nearest: model.start" in capsys.readouterr().err


def test_the_catalogue_has_ours_first_then_named_then_announced(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(workplace / "site")
    announce(workplace / "site", "their_pkg")
    monkeypatch.syspath_prepend(str(workplace / "site"))
    (workplace / "it's mine").mkdir()
    folders = searched(['hydra.searchpath=["file://it\'s mine"]']).folders
    assert folders == (ROOT / "conf", workplace / "it's mine", workplace / "site" / "their_pkg" / "conf")
    with pytest.raises(UserError, match="no such folder"):
        Catalogue.of(["http://somewhere"])
