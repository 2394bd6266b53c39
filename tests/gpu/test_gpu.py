"""The checks of check.py, where there is a CUDA device; and a rehearsal of the script where there is none."""

from pathlib import Path

import gpu_peers
import pytest
import torch
from gpu_common import HERE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_check_on_a_cuda_device_passes(tmp_path: Path) -> None:
    from check import main

    rows = main(["--out", str(tmp_path / "gpu.csv")])
    assert not [row for row in rows if row["status"] == "failed"]


def test_a_compiled_peer_computes_as_our_steps_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # also puts it back
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setitem(gpu_peers.PEERS, "zuko maf", lambda: (torch.nn.Identity(), torch.rand))
    seen: list[tuple[bool, bool]] = []

    def timed(*_: object) -> float:
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic))
        return 1.0

    monkeypatch.setattr(gpu_peers, "step_time", timed)
    monkeypatch.setattr("sys.argv", ["gpu_peers.py", "zuko maf"])
    gpu_peers.main()
    assert seen == [(False, True)]


@pytest.mark.slow
def test_the_script_is_rehearsed_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from check import main

    monkeypatch.setattr(HERE, "device", HERE.device)  # the rehearsal changes both
    monkeypatch.setattr(HERE, "few", HERE.few)
    rows = main(["--rehearse", "--seconds", "3000", "--only", "realnvp", "--out", str(tmp_path / "gpu.csv")])
    assert not [row for row in rows if row["status"] == "failed"]
    assert {row["model"] for row in rows} >= {"realnvp", "maf", "tarflow", "glow"}
    assert {row["status"] for row in rows if row["model"] == "realnvp"} == {"ok"}
