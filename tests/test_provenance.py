"""What a row says of where it was made."""

import pytest
import torch

from bench.provenance import device_name


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
