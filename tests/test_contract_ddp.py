"""Two processes equal one, for every metric of conf/metric that samples are enough for, in one pair of processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers_quarters import OF_MODELS, N, Quarters, data, draw

from bench.metrics.base import Metric

ROOT = Path(__file__).resolve().parent.parent
# These need the model, as those of OF_MODELS do.
OF_LIKELIHOOD = {"cost", "likelihood"}

PROCESS = """
import json, sys
import torch
from torch import distributed
from bench.metrics.streaming import OfSamples
from helpers_quarters import N, data, draw
from test_contract_ddp import metrics

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
samples, of, found = draw(N, 4)[0], data(), {}
for name, metric in metrics().items():
    shared, alone = OfSamples(metric, of), OfSamples(metric, of, sync_on_compute=False)
    for part in (samples[:100] if rank == 0 else samples[100:]).split(60):  # unequal shares
        shared.update(part)
    alone.update(samples)
    made = {}
    # The numbers of one process are computed once.
    for which, one in (("two", shared), ("one", alone))[: 2 if rank == 0 else 1]:
        try:
            made[which] = {key: value.item() for key, value in one.compute().items()}
        except ValueError as error:
            made[which] = str(error)
    found[name] = made
print(json.dumps(found))
distributed.destroy_process_group()
"""


def metrics() -> dict[str, Metric]:
    """All of conf/metric that need samples alone, with features that cost nothing."""
    from helpers_metrics import FakeRecipe
    from helpers_models import configuration, names

    import bench.metrics.critic_distance
    import bench.metrics.two_sample_test
    from bench.config.build import build_metrics

    bench.metrics.two_sample_test.STEPS = bench.metrics.critic_distance.STEPS = 20
    chosen = sorted(set(names("metric")) - OF_MODELS - OF_LIKELIHOOD)
    config = configuration("gaussian", f"metric=[{','.join(chosen)}]", f"evaluate.n_samples={N}")
    made: dict[str, Metric] = build_metrics(config["metric"])
    for metric in made.values():
        if hasattr(metric, "recipe"):
            metric.recipe = FakeRecipe(Quarters())
    return made


def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(tmp_path)], cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    ended = [process.communicate(timeout=500) for process in started]
    for process, (_, errors) in zip(started, ended, strict=True):
        assert process.returncode == 0, errors
    first, second = (json.loads(output.splitlines()[-1]) for output, _ in ended)
    assert len(first) >= 15
    assert len([name for name, made in first.items() if isinstance(made["one"], dict)]) >= len(first) - 3, first
    for name, made in first.items():
        assert made["two"] == made["one"], name
        assert second[name]["two"] == made["one"], name


def test_batches_and_order_move_no_value_and_wrong_samples_are_refused() -> None:
    from bench.features.pixels import Pixels
    from bench.metrics.kernel_distance import MMD
    from bench.metrics.streaming import OfSamples

    samples = draw(N, 4)[0]
    at_once, parts = OfSamples(MMD(Pixels(), N), data()), OfSamples(MMD(Pixels(), N), data())
    at_once.update(samples)
    for part in samples.flip(0).split(7):
        parts.update(part)
    assert at_once.compute() == parts.compute()
    for wrong in (samples.float(), samples[:, :, :4]):
        with pytest.raises(ValueError, match=r"wanted is \(N, 1, 8, 8\) torch\.uint8"):
            at_once.update(wrong)
    assert at_once.compute() == parts.compute(), "a refused batch changes nothing"
    parts.reset()
    parts.update(samples[:0])
    with pytest.raises(ValueError, match="none was given"):
        parts.compute()
    parts.update(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="at least"):
        parts.compute()
