"""Checkpoints: whole or not at all, and never code."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.checkpoint import Progress, load_checkpoint, save_checkpoint
from bench.errors import UserError
from bench.training.checkpoint import DurableCheckpointIO


class Touch:
    """Unpickling this creates a file: what a stranger's checkpoint must not be able to do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


PAYLOAD = {
    "state_dict": OrderedDict(weight=torch.arange(6.0).reshape(2, 3), count=torch.tensor(3)),
    "config": "{}",
    "callbacks": {"rng": [{"python": [3, [1, 2], None], "seen": 12, "rate": 0.5, "done": False}]},
}


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.ckpt", PAYLOAD)
    loaded = load_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(loaded["state_dict"]["weight"], PAYLOAD["state_dict"]["weight"])  # type: ignore[index]
    assert loaded["callbacks"] == PAYLOAD["callbacks"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"], "no temporary file stays"


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.ckpt", PAYLOAD)
    whole = (tmp_path / "a.ckpt").read_bytes()
    for length in range(0, len(whole), 31):
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.ckpt"):
            load_checkpoint(tmp_path / "cut.ckpt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_every_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """A weight with another bit is another model, and nothing else would tell."""
    save_checkpoint(tmp_path / "a.ckpt", PAYLOAD)
    whole, content = (tmp_path / "a.ckpt").read_bytes(), plain(load_checkpoint(tmp_path / "a.ckpt"))
    refused = 0
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        (tmp_path / "flipped.ckpt").write_bytes(changed)
        try:
            assert plain(load_checkpoint(tmp_path / "flipped.ckpt")) == content
        except UserError:
            refused += 1
    assert refused > len(whole) / 3, "the rest is padding and fields that nobody reads"


def plain(value: object) -> object:
    """Entries that ``==`` compares: tensors as lists."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("forced", ["0", "1"])
def test_objects_are_refused_and_nothing_runs(forced: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This variable makes torch.load unsafe by default.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    trap = tmp_path / "ran"
    torch.save({"state_dict": {}, "extra": Touch(trap)}, tmp_path / "bad.ckpt")
    (tmp_path / "raw.ckpt").write_bytes(pickle.dumps(Touch(trap)))
    for name in ("bad.ckpt", "raw.ckpt"):
        with pytest.raises(UserError, match=name):
            load_checkpoint(tmp_path / name)
    assert not trap.exists()


def test_a_tensor_that_claims_more_than_is_stored_is_refused(tmp_path: Path) -> None:
    bomb = torch.zeros(1).expand(10**6, 10**6)
    torch.save({"state_dict": {"w": bomb}}, tmp_path / "bomb.ckpt")
    assert (tmp_path / "bomb.ckpt").stat().st_size < 2000
    with pytest.raises(UserError, match="claims more than is stored"):
        load_checkpoint(tmp_path / "bomb.ckpt")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (10**13,), check_invariants=False),
        torch.empty(10**12, device="meta"),
    ],
    ids=["sparse", "meta"],
)
def test_tensors_that_genbench_never_writes_are_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": tensor}}, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match="sparse, quantized or without memory"):
        load_checkpoint(tmp_path / "odd.ckpt")


def test_entries_that_contain_themselves_are_refused(tmp_path: Path) -> None:
    loop: dict[str, object] = {}
    loop["state_dict"] = loop
    torch.save(loop, tmp_path / "loop.ckpt")
    with pytest.raises(UserError, match="nested too deeply"):
        load_checkpoint(tmp_path / "loop.ckpt")


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.ckpt", {"state_dict": {"w": torch.zeros(100_000)}})
    with (
        zipfile.ZipFile(tmp_path / "a.ckpt") as old,
        zipfile.ZipFile(tmp_path / "small.ckpt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(UserError, match="compressed"):
        load_checkpoint(tmp_path / "small.ckpt")


@pytest.mark.parametrize("path", ["https://example.org/model.ckpt", "missing.ckpt", "."])
def test_only_local_files_are_opened(path: str, workplace: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_checkpoint(path)


def test_anything_but_named_entries_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(UserError, match="holds a list"):
        load_checkpoint(tmp_path / "list.ckpt")


def test_lightning_saves_through_us_even_with_a_temporary_folder_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    plugin = DurableCheckpointIO()
    plugin.save_checkpoint({**PAYLOAD, "loops": {"fit_loop": 1}}, tmp_path / "a.ckpt")
    loaded = plugin.load_checkpoint(tmp_path / "a.ckpt")
    assert set(loaded) == {"state_dict", "config", "callbacks"}
    plugin.remove_checkpoint(tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_training_that_began_on_changed_code_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress()
    for state, expected in (
        (("a" * 40, False), False),
        (("a" * 40, True), True),
        (("a" * 40, False), True),
        (("b" * 40, False), True),
    ):
        monkeypatch.setattr("bench.checkpoint.git_state", lambda state=state: state)
        progress.made_with("cpu (1 threads)", "r0")
        assert (progress.commit, progress.dirty) == (state[0], expected)
