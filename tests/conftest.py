"""What all tests share: a cache of their own, and one thread a process."""

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers_birthday import planted_copies
from helpers_fetch import Quiet, serving
from torch import Tensor

from bench.data.base import Data
from bench.data.digits import mnist5k

# Two cores: a second thread per process costs more than it brings on tensors this small.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

pytest.register_assert_rewrite("contract")  # so that a check that fails shows the values


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("genbench", "models of a package from outside (tests/test_contract_models.py)")
    group.addoption("--searchpath", type=Path, metavar="FOLDER", help="its configurations: FOLDER/model/NAME.yaml")
    group.addoption("--trust", action="append", default=[], metavar="PACKAGE", help="what the configurations may name")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script; commands would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "spaces(names): the kinds of data that a contract test runs on")
    if config.getoption("searchpath"):
        config.option.searchpath = config.option.searchpath.resolve()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing a user has in the cache can help a test to pass. The session's processes share one: what takes long to
    make (the classifier) is made once."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # one process of several has a folder inside the session's
        root = root.parent
    (root / "cache").mkdir(exist_ok=True)
    os.environ["GENBENCH_CACHE"] = str(root / "cache")


@pytest.fixture(autouse=True)
def _own_search_path() -> Iterator[None]:
    """Where Python looks for modules is set for good, in this process and those it starts: no later test may see it."""
    path, finders, safe = list(sys.path), list(sys.meta_path), os.environ.pop("PYTHONSAFEPATH", None)
    yield
    sys.path[:], sys.meta_path[:] = path, finders
    os.environ.pop("PYTHONSAFEPATH", None)
    if safe is not None:
        os.environ["PYTHONSAFEPATH"] = safe


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run commands in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which a server on this machine shows it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "web"
    folder.mkdir()
    with serving(partial(Quiet, directory=str(folder))) as url:
        yield folder, url


@pytest.fixture(scope="module")
def digits() -> Data:
    return mnist5k()


@pytest.fixture(scope="module")
def planted(digits: Data) -> tuple[Tensor, Tensor]:
    """Slightly jittered copies of training digits, and the digits they are of."""
    return planted_copies(digits)


@pytest.fixture
def fixed_seed() -> Iterator[None]:
    """Torch's global generator begins at 0, and is afterwards what it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
