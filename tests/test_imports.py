"""Who may import whom, read from the source: data flows one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*(ROOT / "bench").rglob("*.py"), *(ROOT / "models").rglob("*.py")])


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> set[str]:
    """Absolute names of everything a file imports, wherever in the file."""
    package = module_name(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            found.add(".".join([*base, node.module] if node.module else base))
    return found


GRAPH = {module_name(file): imports(file) for file in FILES}


def importers(*prefixes: str) -> set[str]:
    """Modules that import anything under the prefixes."""
    return {
        name
        for name, used in GRAPH.items()
        if any(target == prefix or target.startswith(prefix + ".") for target in used for prefix in prefixes)
    }


def test_models_know_nothing_of_the_harness() -> None:
    assert {name for name in importers("bench", "hydra", "omegaconf", "conf") if name.startswith("models")} == set()


def test_a_model_imports_no_other_model() -> None:
    shared = {"models.base", "models.distributions", "models.flows.base", "models.flows.contractive"}
    shared |= {"models.gans.implicit", "models.gans.objectives"}
    shared_packages = ("models.nn", "models.transforms")
    for name, used in GRAPH.items():
        if name.startswith("models."):
            ours = {target for target in used if target.startswith("models.")}
            foreign = {t for t in ours if t not in shared and not t.startswith(shared_packages)}
            assert foreign == set(), f"{name} imports {foreign}"


def test_modules_of_models_import_each_other_relatively() -> None:
    for file in (ROOT / "models").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] != "models", f"{file}:{node.lineno}"


def test_the_schema_needs_the_standard_library_only() -> None:
    assert {target.split(".")[0] for target in GRAPH["bench.schema"]} <= {"dataclasses", "math", "enum"}


@pytest.mark.parametrize(
    "name",
    [
        "rows.store",
        "rows.frame",
        "rows.migrate",
        "tables.leaderboard",
        "tables.frame",
        "tables.certified",
        "cli.table",
        "config.catalogue",
        "files",
    ],
)
def test_tables_never_need_torch(name: str) -> None:
    reached, todo = set(), [f"bench.{name}"]
    while todo:
        module = todo.pop()
        if module in reached:
            continue
        reached.add(module)
        todo += list(GRAPH.get(module, ()))
    assert not {target for target in reached if target.split(".")[0] in ("torch", "pytorch_lightning", "models")}


def test_data_metrics_and_features_do_not_import_each_other() -> None:
    for name, used in GRAPH.items():
        for package in ("bench.data", "bench.metrics", "bench.features"):
            if name.startswith(package):
                others = {"bench.data", "bench.metrics", "bench.features"} - {package}
                # What a data set and a metric are, everybody may know.
                foreign = {t for t in used for other in others if t.startswith(other)} - {
                    "bench.data.base",
                    "bench.metrics.base",
                }
                assert foreign == set(), f"{name} imports {foreign}"
    metrics = {name for name in GRAPH if name.startswith("bench.metrics.")} - {"bench.metrics.base"}
    for name in metrics:
        assert GRAPH[name] & metrics == set(), f"{name} imports another metric"


def test_only_the_composer_and_the_builder_know_hydra() -> None:
    assert importers("hydra", "omegaconf") == {"bench.config.compose", "bench.config.build"}
    assert importers("bench.config.compose") == {"bench.cli.main", "bench.cli.data"}


def test_there_is_no_circle() -> None:
    state: dict[str, int] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert state.get(name) != 1, " -> ".join([*path, name])
        if state.get(name) == 2:
            return
        state[name] = 1
        for target in GRAPH[name]:
            if target in GRAPH and target != name:
                visit(target, (*path, name))
        state[name] = 2

    for name in GRAPH:
        visit(name, ())
