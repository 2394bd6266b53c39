"""The checks of check.py, where there is a CUDA device."""

from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_check_on_a_cuda_device_passes(tmp_path: Path) -> None:
    from check import main

    rows = main(["--seconds", "240", "--out", str(tmp_path / "gpu.csv")])
    assert not [row for row in rows if row["status"] == "failed"]
