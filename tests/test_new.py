"""``genbench new model``: what it writes runs, keeps the contract, and never takes the place of anything."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from contract import (
    ENUMERABLE,
    QUADRATURE,
    SPACES,
    Candidate,
    check_capabilities,
    check_codes,
    check_configuration,
    check_density,
    check_description,
    check_gradients,
    check_mass,
    check_relation,
    check_reload,
    check_samples,
    check_spaces,
    check_streams,
    data_of,
)

from bench.cli.main import main
from bench.cli.new import FAMILIES, TEMPLATES, Home, new_model
from bench.rows.store import read_rows
from models.base import ClosedForm, HasLikelihood

ROOT = Path(__file__).resolve().parent.parent
ON_SPACES = [
    (check_gradients, SPACES), (check_samples, SPACES), (check_streams, SPACES), (check_reload, SPACES),
    (check_relation, SPACES), (check_codes, SPACES), (check_mass, ENUMERABLE), (check_density, QUADRATURE),
]  # fmt: skip


def package_of(folder: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> Candidate:
    """A new model in a package of its own, by the command."""
    package = f"own_{folder.name}"  # another one in each test: Python imports a name once
    assert main(["new", "model", f"my_{family}", "--family", family, "--into", str(folder / package)]) == 0
    monkeypatch.syspath_prepend(folder)
    return Candidate(f"my_{family}", folder / package / "conf", (package,))


def test_there_is_a_template_for_each_family() -> None:
    assert FAMILIES == ["autoregressive", "baseline", "diffusion", "energy", "flow", "gan", "vae"]
    assert [file.stem for file in sorted(TEMPLATES.glob("*.py"))] == ["__init__", *FAMILIES]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_model_keeps_the_contract_on_every_kind_of_data(
    family: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = package_of(workplace, family, monkeypatch)
    check_description(candidate.file)
    check_configuration(candidate)
    check_capabilities(candidate)
    assert check_spaces(candidate) == {}, "it takes every kind of data"
    for check, spaces in ON_SPACES:
        for space in filter(candidate.accepts, spaces):
            folder = workplace / check.__name__ / space  # of its own: training would go on where another's ended
            folder.mkdir(parents=True)
            check(candidate, space, folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_model_is_of_its_family_and_reads_as_one(
    family: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = package_of(workplace, family, monkeypatch)
    model = candidate.new(data_of("image"))
    assert model.family == family
    assert type(model).__name__ == f"My{family.capitalize()}"
    assert isinstance(model, HasLikelihood) == (family in ("flow", "vae", "autoregressive", "baseline"))
    assert isinstance(model, ClosedForm) == (family == "baseline")
    code = (candidate.folder.parent / f"my_{family}.py").read_text()
    assert "To make it yours, change" in code
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", code) or family == "baseline"
    assert re.search(r"\.\. math::", code)
    assert "Mine" not in code + candidate.file.read_text()
    assert "bench" not in code, "a model knows nothing of the harness"


def test_the_commands_that_are_printed_train_and_test_it(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "model", "mine", "--family", "vae"]) == 0
    lines = capsys.readouterr().out.splitlines()
    written = [Path("my_models", *parts) for parts in (["__init__.py"], ["mine.py"], ["conf", "model", "mine.yaml"])]
    assert lines[:3] == [f"wrote {file}" for file in written]
    assert sorted(path for path in Path().rglob("*") if path.is_file()) == sorted(written)
    train, pictures = (line.strip() for line in lines if "genbench run" in line)
    assert "data=two_moons" in train
    assert pictures == train.replace("two_moons", "mnist5k")
    tiny = ["data.n_train=512", "data.n_val=64", "data.n_test=64", "metric=[likelihood,cost]", "train.examples=640",
            "train.validate_every=320", "evaluate.n_samples=32"]  # fmt: skip
    command = train.replace("PYTHONPATH=.", f"PYTHONPATH=.:{ROOT}").replace("genbench", f"{sys.executable} -m bench")
    done = subprocess.run(f"{command} {shlex.join(tiny)}", shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    distrusted = re.sub(r" '?trust=\S+", "", command)
    refused = subprocess.run(distrusted, shell=True, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "add trust=[my_models]" in refused.stderr
    (row,) = [
        row
        for row in read_rows(workplace / "results" / "rows" / "two_moons.jsonl")
        if row.model == "mine" and row.metric == "log_likelihood"
    ]
    assert (row.model_family, row.relation) == ("vae", "lower_bound")
    assert row.value is not None

    test = lines[-1].strip().replace(f"PYTHONPATH={workplace}", f"PYTHONPATH={workplace}:{ROOT}")
    test = test.replace("python -m", f"{sys.executable} -m") + " -n 0 -p no:cacheprovider"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(test, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(r"\b4\d passed, \d+ deselected", done.stdout), done.stdout[-300:]


def test_in_a_checkout_it_goes_to_models_and_conf(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("models/base.py", "models/vaes/__init__.py", "conf/model/vae.yaml"):
        (workplace / file).parent.mkdir(parents=True, exist_ok=True)
        (workplace / file).touch()
    assert main(["new", "model", "mine", "--family", "vae"]) == 0
    assert main(["new", "model", "other", "--family", "energy", "--into", str(workplace)]) == 0
    printed = capsys.readouterr().out
    assert "_target_: models.vaes.mine.Mine\n" in (workplace / "conf" / "model" / "mine.yaml").read_text()
    assert (workplace / "models" / "vaes" / "mine.py").exists()
    assert "_target_: models.energy.other.Other\n" in (workplace / "conf" / "model" / "other.yaml").read_text()
    assert (workplace / "models" / "energy" / "__init__.py").exists()
    assert "  genbench run model=mine data=two_moons\n  genbench run model=mine data=mnist5k\n" in printed
    assert "  python -m pytest tests/test_contract_models.py -k mine\n" in printed
    assert "trust" not in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["my-model"], r"new model 'my-model': must be a Python name"),
        (["2fast"], r"new model '2fast'"),
        (["class"], r"new model 'class': .* no keyword"),
        (["null"], r"new model 'null'"),
        (["_self_"], r"new model '_self_'"),
        (["é"], r"new model 'é'"),
        (["a/b"], r"new model 'a/b'"),
        (["realnvp"], r"new model 'realnvp': there is a model of this name already; `genbench list models`"),
        (["mine", "--family", "flwo"], r"--family flwo: no such family; nearest: flow; there are: autoregressive"),
        (["mine", "--into", "my-models"], r"--into my-models: 'my-models' cannot be the name of a Python package"),
        (["mine", "--into", "__main__"], r"--into __main__: '__main__' cannot be the name"),
        (["mine", "--into", "torch"], r"--into torch: Python has another package 'torch'"),
        (["mine", "--into", "bench"], r"--into bench: Python has another package 'bench'"),
        (["mine", "--into", "sys"], r"--into sys: Python has another package 'sys'"),
        (["mine", "--into", "/dev/null/own"], r"/dev/null/own/.*: Not a directory"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    arguments: list[str], said: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "model", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert re.match(rf"genbench: .*{said}", printed.err), printed.err
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize("existing", ["my_models/mine.py", "my_models/conf/model/mine.yaml"])
def test_an_existing_file_is_left_as_it_is(existing: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = workplace / existing
    file.parent.mkdir(parents=True)
    file.write_text("mine already")
    assert main(["new", "model", "mine"]) == 2
    assert capsys.readouterr().err.startswith(f"genbench: {existing}: exists already")
    assert file.read_text() == "mine already"
    assert [path for path in workplace.rglob("*") if path.is_file()] == [file]


def test_a_second_model_joins_the_package(workplace: Path) -> None:
    assert main(["new", "model", "mine"]) == 0
    init = workplace / "my_models" / "__init__.py"
    init.write_text("# theirs\n")
    assert main(["new", "model", "another", "--family", "gan"]) == 0
    assert init.read_text() == "# theirs\n"
    assert main(["new", "model", "another"]) == 2


@pytest.mark.parametrize("name", ["flow", "tensor", "layer", "chain", "generative_model", "math", "torch", "mlp"])
def test_no_name_takes_that_of_something_the_template_uses(name: str, tmp_path: Path) -> None:
    home = Home(tmp_path / "own", tmp_path / "own" / "conf", "own", tmp_path)
    new_model(name, "flow", home)
    spec = importlib.util.spec_from_file_location(f"own_{name}", tmp_path / "own" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (class_name,) = module.__all__
    yaml = (tmp_path / "own" / "conf" / "model" / f"{name}.yaml").read_text()
    assert f"_target_: own.{name}.{class_name}\n" in yaml
    getattr(module, class_name)((3,), None, lambda parameters: None)


def test_it_starts_without_torch(workplace: Path) -> None:
    code = (
        "import sys\nfrom bench.cli.main import main\nassert main(['new', 'model', 'mine']) == 0\n"
        "assert not {'torch', 'pytorch_lightning', 'hydra', 'scipy'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
