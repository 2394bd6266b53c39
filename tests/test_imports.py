"""Who may import whom: the table in docs/architecture.md, compared with the source."""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
TORCH = ("torch", "pytorch_lightning", "lightning", "torchmetrics", "models")
HYDRA = ("hydra", "omegaconf")
COMPOSER = "bench.config.compose"


@dataclass(frozen=True)
class Floor:
    """A line of the table: files and folders of bench/, and which of their files may import torch when imported."""

    places: tuple[str, ...]
    torch: str

    def may_import_torch(self, file: str) -> bool:
        only = re.findall(r"`([^`]+)`", self.torch)
        return self.torch == "yes" or file in [f"{self.places[0]}{name}" for name in only]


@dataclass(frozen=True)
class Import:
    """A module that a file imports.

    Attributes:
        at_import: Whether it is imported when the file is: not inside a function, nor for a type checker only.
    """

    target: str
    at_import: bool


@dataclass(frozen=True)
class House:
    """A repository: its table, and what its files import."""

    root: Path

    @cached_property
    def floors(self) -> list[Floor]:
        """The lines of the table, the ground first."""
        text = (self.root / "docs" / "architecture.md").read_text(encoding="utf-8")
        (table,) = re.findall(r"^\| folder \| holds \| torch \|\n\|[-| ]+\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
        cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
        return [Floor(tuple(re.findall(r"`([^`]+)`", first)), torch) for first, _, torch in cells]

    @cached_property
    def files(self) -> dict[str, Path]:
        """The Python files of bench/ and models/ by the names of their modules."""
        found = sorted([*(self.root / "bench").rglob("*.py"), *(self.root / "models").rglob("*.py")])
        return {module_name(file.relative_to(self.root)): file for file in found}

    @cached_property
    def imports(self) -> dict[str, set[Import]]:
        """What every module imports, with names of other modules as written in the table: ``bench.rows.store``."""
        return {name: set(self._imports(name, file)) for name, file in self.files.items()}

    def _imports(self, name: str, file: Path) -> Iterator[Import]:
        package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
        for node, at_import in statements(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                base = package[: len(package) - node.level + 1] if node.level else []
                whole = ".".join([*base, *([node.module] if node.module else [])])
                # What is imported from a package may be a module of it.
                targets = [one if (one := f"{whole}.{alias.name}") in self.files else whole for alias in node.names]
            for target in targets:
                yield Import(target, at_import)

    def file(self, module: str) -> str:
        """``rows/store.py`` for ``bench.rows.store``."""
        return self.files[module].relative_to(self.root / "bench").as_posix()

    def floor(self, module: str) -> int | None:
        """The number of the table's line where a module of bench/ lives."""
        file = self.file(module)
        folder = f"{Path(file).parent.as_posix()}/"
        here = [k for k, floor in enumerate(self.floors) if file in floor.places or folder in floor.places]
        return here[0] if here else None

    def reached(self, module: str) -> dict[str, str]:
        """Everything that is imported when a module is, each with the module that imports it."""
        by, todo = {module: ""}, [module]
        while todo:
            one = todo.pop()
            parents = [".".join(one.split(".")[:k]) for k in range(1, one.count(".") + 1)]
            direct = [found.target for found in self.imports.get(one, ()) if found.at_import]
            for target in [*direct, *(parent for parent in parents if one in self.files)]:
                if target not in by:
                    by[target] = one
                    todo.append(target)
        return by

    def named(self, group: str) -> set[str]:
        """The modules whose classes or functions the files of a group of conf/ name."""
        nodes = [OmegaConf.load(file) for file in (self.root / "conf" / group).rglob("*.yaml")]
        return {str(node["_target_"]).rpartition(".")[0] for node in nodes if "_target_" in node}


def module_name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(node: ast.AST, at_import: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement below a node, and whether it is executed when the file is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_import
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for one in child.body:
                yield from statements(ast.Module([one], []), False)
            for one in child.orelse:
                yield from statements(ast.Module([one], []), at_import)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from statements(child, at_import and not inside)


def under(target: str, *packages: str) -> bool:
    return any(target == package or target.startswith(package + ".") for package in packages)


# The rules. Each returns what breaks it, a line for each.


def the_table_and_the_folders_agree(house: House) -> list[str]:
    bench = house.root / "bench"
    ground = {file.name for file in bench.glob("*.py")}
    folders = {f"{file.parent.relative_to(bench).as_posix()}/" for file in bench.rglob("*.py")} - {"./"}
    listed = [place for floor in house.floors for place in floor.places]
    wrong = [f"{place}: not in the table" for place in sorted((ground | folders) - set(listed))]
    wrong += [f"{place}: in the table and not in bench/" for place in sorted(set(listed) - ground - folders)]
    wrong += [f"{place}: twice in the table" for place in sorted({one for one in listed if listed.count(one) > 1})]
    for floor in house.floors:
        if not re.fullmatch(r"never|yes|only( `\w+\.py`)+", floor.torch):
            wrong.append(f"{floor.places[0]}: the column torch says {floor.torch!r}")
        for name in re.findall(r"`([^`]+)`", floor.torch):
            if not (bench / floor.places[0] / name).is_file():
                wrong.append(f"{floor.places[0]}{name}: in the table and not in bench/")
    return wrong


def nobody_imports_upwards(house: House) -> list[str]:
    wrong = []
    for name, found in house.imports.items():
        for target in sorted({one.target for one in found}):
            if under(name, "bench") and target in house.files and under(target, "bench"):
                here, there = house.floor(name), house.floor(target)
                if here is not None and there is not None and there > here:
                    wrong.append(f"{name} imports {target}, which is above it")
    return wrong


def training_and_measuring_are_apart(house: House) -> list[str]:
    pairs = (("bench.training", "bench.evaluation"), ("bench.evaluation", "bench.training"))
    return [
        f"{name} imports {one.target}"
        for name, found in house.imports.items()
        for one in found
        for here, there in pairs
        if under(name, here) and under(one.target, there)
    ]


def who_never_needs_torch_does_not_import_it(house: House) -> list[str]:
    wrong = []
    for name in house.files:
        if not under(name, "bench"):
            continue
        floor = house.floor(name)
        if floor is None or house.floors[floor].may_import_torch(house.file(name)):
            continue
        by = house.reached(name)
        for target in sorted(by):
            if under(target, *TORCH):
                way = [target]
                while way[-1] != name:
                    way.append(by[way[-1]])
                wrong.append(f"{' <- '.join(way)}")
                break
    return wrong


def only_configuration_knows_hydra(house: House) -> list[str]:
    return [
        f"{name} imports {one.target}"
        for name, found in house.imports.items()
        for one in found
        if under(one.target, *HYDRA) and not under(name, "bench.config")
    ]


def only_commands_and_doors_compose(house: House) -> list[str]:
    commands = next(k for k, floor in enumerate(house.floors) if "cli/" in floor.places)
    return [
        f"{name} imports {one.target}"
        for name, found in house.imports.items()
        for one in found
        if one.target == COMPOSER
        if not under(name, "bench.config") and (house.floor(name) or 0) < commands
    ]


def models_know_nothing_of_the_harness(house: House) -> list[str]:
    return [
        f"{name} imports {one.target}"
        for name, found in house.imports.items()
        for one in found
        if under(name, "models") and under(one.target, "bench", "conf", *HYDRA)
    ]


def nothing_imports_a_model(house: House) -> list[str]:
    """What models share stands in files that no YAML of conf/model names."""
    models = house.named("model")
    return [
        f"{name} imports the model {one.target}"
        for name, found in house.imports.items()
        for one in found
        if one.target in models and one.target != name
    ]


def data_features_and_metrics_meet_in_their_bases(house: House) -> list[str]:
    """A file that conf/ names is of no use to the other two, and one metric is of no use to another."""
    named = {f"bench.{group}": house.named(folder) for group, folder in
             (("data", "data"), ("features", "features"), ("metrics", "metric"))}  # fmt: skip
    return [
        f"{name} imports {one.target}"
        for name, found in house.imports.items()
        for here in named
        if under(name, here)
        for one in found
        for there, modules in named.items()
        if one.target in modules
        and one.target != name
        and (there != here or (here == "bench.metrics" and name in modules))
    ]


def there_is_no_circle(house: House) -> list[str]:
    wrong: list[str] = []
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            wrong.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in sorted({one.target for one in house.imports[name]}):
                if target in house.imports and target != name:
                    visit(target, (*path, name))
            done.add(name)

    for name in house.imports:
        visit(name, ())
    return wrong


Rule = Callable[[House], list[str]]
RULES: list[Rule] = [
    the_table_and_the_folders_agree, nobody_imports_upwards, training_and_measuring_are_apart,
    who_never_needs_torch_does_not_import_it, only_configuration_knows_hydra, only_commands_and_doors_compose,
    models_know_nothing_of_the_harness, nothing_imports_a_model, data_features_and_metrics_meet_in_their_bases,
    there_is_no_circle,
]  # fmt: skip
OURS = House(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_is_as_the_table_says(rule: Rule) -> None:
    assert rule(OURS) == []


def test_modules_of_models_import_each_other_relatively() -> None:
    for file in (ROOT / "models").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] != "models", f"{file}:{node.lineno}"


def test_tests_begin_with_what_the_test_extra_installs() -> None:
    """A file of tests that imports a peer when it is collected breaks the README's command; it may importorskip it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    others = [name for extra, names in project["optional-dependencies"].items() if extra != "test" for name in names]
    installed = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    named, peers = ({re.split(r"[^\w-]", name)[0] for name in names} for names in (installed, others))
    # Modules that are called otherwise than what installs them, or come with a peer.
    forbidden = peers - named | {"sklearn", "playwright", "onnxruntime"}
    for file in sorted((ROOT / "tests").glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            modules = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {module.split(".")[0] for module in modules} & forbidden, f"{file.name}: {modules}"


def test_the_schema_needs_the_standard_library_only() -> None:
    assert {one.target for one in OURS.imports["bench.schema"]} <= {"dataclasses", "math", "enum"}


SMALL = {
    "docs/architecture.md": (
        "A picture.\n\n| folder | holds | torch |\n|---|---|---|\n| `errors.py` `seeds.py` | ground | never |\n"
        "| `rows/` | rows | never |\n| `data/` | data | yes |\n| `features/` | features | yes |\n"
        "| `metrics/` | metrics | yes |\n| `config/` | configuration | only `build.py` |\n| `training/` | - | yes |\n"
        "| `evaluation/` | - | yes |\n| `cli/` | commands | never |\n\nEnd.\n"
    ),
    "bench/errors.py": "",
    "bench/seeds.py": "import hashlib\n",
    "bench/rows/__init__.py": "",
    "bench/rows/store.py": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nfrom bench import errors\n"
    ),
    "bench/data/base.py": "import torch\n",
    "bench/data/toy.py": "from .base import Data\n",
    "bench/features/pixels.py": "from bench.data.base import Data\n",
    "bench/metrics/fid.py": "import torch\n",
    "bench/metrics/cost.py": "import torch\n",
    "bench/config/build.py": "import torch\nfrom omegaconf import OmegaConf\n",
    "bench/config/compose.py": "from hydra import compose\n",
    "bench/training/fit.py": "import torch\nfrom models.base import Model\n",
    "bench/evaluation/measure.py": "import torch\n",
    "bench/cli/run.py": "from bench.config.compose import runs\ndef run():\n    from bench.config import build\n",
    "models/base.py": "import torch\n",
    "models/flow.py": "from models.base import Model\n",
    "models/vae.py": "from .base import Model\n",
    "conf/model/flow.yaml": "_target_: models.flow.Flow\n",
    "conf/model/vae.yaml": "_target_: models.vae.VAE\n",
    "conf/data/toy.yaml": "_target_: bench.data.toy.toy\n",
    "conf/metric/fid.yaml": "_target_: bench.metrics.fid.FID\n",
    "conf/metric/cost.yaml": "_target_: bench.metrics.cost.Cost\n",
}  # fmt: skip


def small_house(folder: Path, **changed: str) -> House:
    for file, text in {**SMALL, **changed}.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return House(folder)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_tidy_house_breaks_no_rule(rule: Rule, tmp_path: Path) -> None:
    assert rule(small_house(tmp_path)) == []


@pytest.mark.parametrize(
    ("rule", "file", "text", "said"),
    [
        (the_table_and_the_folders_agree, "bench/gate/report.py", "", "gate/: not in the table"),
        (the_table_and_the_folders_agree, "bench/new.py", "", "new.py: not in the table"),
        (the_table_and_the_folders_agree, "bench/rows/old/x.py", "", "rows/old/: not in the table"),
        (the_table_and_the_folders_agree, "docs/architecture.md",
         SMALL["docs/architecture.md"].replace("`seeds.py`", "`seeds.py` `rng.py`"),
         "rng.py: in the table and not in bench/"),
        (the_table_and_the_folders_agree, "docs/architecture.md",
         SMALL["docs/architecture.md"].replace("only `build.py`", "only `spec.py`"),
         "config/spec.py: in the table and not in bench/"),
        (the_table_and_the_folders_agree, "docs/architecture.md",
         SMALL["docs/architecture.md"].replace("`rows/`", "`rows/` `data/`"), "data/: twice in the table"),
        (the_table_and_the_folders_agree, "docs/architecture.md",
         SMALL["docs/architecture.md"].replace("only `build.py`", "mostly"), "config/: the column torch says 'mostly'"),
        (nobody_imports_upwards, "bench/errors.py", "from bench.rows.store import read",
         "bench.errors imports bench.rows.store, which is above it"),
        (nobody_imports_upwards, "bench/rows/store.py", "def f():\n    from bench.data import base",
         "bench.rows.store imports bench.data.base, which is above it"),
        (nobody_imports_upwards, "bench/rows/store.py", "from ..cli import run",
         "bench.rows.store imports bench.cli.run, which is above it"),
        (training_and_measuring_are_apart, "bench/evaluation/measure.py", "def f():\n    import bench.training.fit",
         "bench.evaluation.measure imports bench.training.fit"),
        (training_and_measuring_are_apart, "bench/training/fit.py", "from bench.evaluation import measure",
         "bench.training.fit imports bench.evaluation.measure"),
        (who_never_needs_torch_does_not_import_it, "bench/seeds.py", "import torch.nn",
         "torch.nn <- bench.seeds"),
        (who_never_needs_torch_does_not_import_it, "bench/rows/__init__.py", "from models.base import Model",
         "models <- models.base <- bench.rows"),
        (who_never_needs_torch_does_not_import_it, "bench/cli/run.py", "from bench.config.build import x",
         "torch <- bench.config.build <- bench.cli.run"),
        (who_never_needs_torch_does_not_import_it, "bench/rows/store.py",
         "if not TYPE_CHECKING or True:\n    pass\nelse:\n    import torch", "torch <- bench.rows.store"),
        (who_never_needs_torch_does_not_import_it, "bench/config/compose.py", "class X:\n    import torch",
         "torch <- bench.config.compose"),
        (only_configuration_knows_hydra, "bench/cli/run.py", "def f():\n    import hydra.utils",
         "bench.cli.run imports hydra.utils"),
        (only_commands_and_doors_compose, "bench/evaluation/measure.py", "import bench.config.compose",
         "bench.evaluation.measure imports bench.config.compose"),
        (models_know_nothing_of_the_harness, "models/vae.py", "def f():\n    from bench.seeds import x",
         "models.vae imports bench.seeds"),
        (nothing_imports_a_model, "models/vae.py", "from .flow import Flow",
         "models.vae imports the model models.flow"),
        (nothing_imports_a_model, "models/base.py", "from models import flow",
         "models.base imports the model models.flow"),
        (data_features_and_metrics_meet_in_their_bases, "bench/metrics/fid.py", "from bench.data import toy",
         "bench.metrics.fid imports bench.data.toy"),
        (data_features_and_metrics_meet_in_their_bases, "bench/metrics/fid.py", "from .cost import Cost",
         "bench.metrics.fid imports bench.metrics.cost"),
        (there_is_no_circle, "bench/data/base.py", "def f():\n    from bench.data.toy import toy",
         "bench.data.base -> bench.data.toy -> bench.data.base"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_found(rule: Rule, file: str, text: str, said: str, tmp_path: Path) -> None:
    assert said in rule(small_house(tmp_path, **{file: text}))
