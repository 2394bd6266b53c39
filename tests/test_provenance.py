"""What a row says of where it was made."""

import subprocess
from pathlib import Path

import pytest
import torch

from bench import provenance
from bench.provenance import device_name, git_state


def test_a_device_is_named_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    for cuda, mps, names in (
        (False, False, ("cpu (3 threads)", "cpu (3 threads)", "cpu (3 threads)")),
        (False, True, ("cpu (3 threads)", "Apple GPU", "Apple GPU")),
        (True, False, ("cpu (3 threads)", "NVIDIA H100", "NVIDIA H100")),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=cuda: found)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda found=mps: found)
        assert tuple(device_name(accelerator, 1) for accelerator in ("cpu", "gpu", "auto")) == names
        assert device_name("gpu", 2) == f"2 x {names[1]}"


def test_changed_code_and_configuration_are_told_and_results_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(provenance, "_ROOT", tmp_path.resolve())
    git("init")
    git("commit", "--allow-empty", "--message", "first")
    for file, changed in (
        ("bench/a.py", True), ("models/a.py", True), ("conf/model/a.yaml", True), ("pyproject.toml", True),
        ("results/a.csv", False), ("runs/a/rows.jsonl", False), ("docs/a.md", False),
    ):  # fmt: skip
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        commit, dirty = git_state()
        assert (len(commit), dirty) == (40, changed), file
        path.unlink()
    monkeypatch.setattr(provenance, "_ROOT", tmp_path.resolve() / "bench")  # inside somebody's own repository
    assert git_state() == ("", None)
