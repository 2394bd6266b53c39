"""SIGKILL at random points, again and again: the same command goes on, to the same bits.

Every run starts the real command line. A kill lands anywhere from the imports to the last rename; what is never allowed
is a checkpoint or a row file that cannot be read, or weights that differ from those of a run left in peace.
"""

import random
from pathlib import Path

import pytest
import torch
from helpers_cli import genbench, genbench_killed_after

from bench.checkpoint import load_checkpoint
from bench.rows.store import read_rows

# Two seconds of training with a checkpoint every tenth of a second or so, then a short evaluation.
RUN = [
    "run", "data=two_moons", "data.n_train=4096", "data.n_val=256", "data.n_test=256", "metric=[likelihood,cost]",
    "train.batch_size=32", "train.validate_every=1600", "train.ema_decay=0.99", "evaluate.n_samples=64",
]  # fmt: skip
MODELS = {
    "flow": ["model=realnvp", "model.couplings=2", "model.hidden=16", "train.examples=40000"],
    "gan": ["model=wgan", "train.examples=40000"],
    "vae": ["model=vae", "model.hidden=32", "model.latent_dim=4", "train.examples=40000"],
}


def final_state(folder: Path) -> tuple[dict[str, torch.Tensor], list[tuple[str, float | None]]]:
    (run,) = [path for path in (folder / "runs" / "two_moons").iterdir() if path.is_dir()]
    state = {}
    for name in ("final", "best"):
        weights = load_checkpoint(run / f"{name}.ckpt")["state_dict"]
        state |= {f"{name}.{key}": value for key, value in weights.items()}
    timed = {"train_seconds", "seconds_to_best", "train_examples_per_second", "samples_per_second"}
    rows = [(row.metric, row.value) for row in read_rows(run / "rows.jsonl") if row.metric not in timed]
    assert not list(run.glob("*.tmp"))
    assert not list(run.glob(".genbench-*")), "temporary files of killed writers stay"
    return state, rows


def survive(kind: str, kills: int, folder: Path) -> None:
    """Kill runs at random points ``kills`` times in all; each must end as the one left in peace did."""
    command = [*RUN, *MODELS[kind]]
    peace = folder / "peace"
    peace.mkdir()
    undisturbed = genbench(*command, cwd=peace)
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected_state, expected_rows = final_state(peace)
    generator = random.Random(f"{kind}-{kills}")
    killed = episode = 0
    while killed < kills:
        episode += 1
        war = folder / f"war{episode}"
        war.mkdir()

        def log_size(war: Path = war) -> int:
            return sum(file.stat().st_size for file in war.glob("runs/*/*/run.log"))

        code = None
        while code is None and killed < kills:
            code = genbench_killed_after(generator.uniform(0, 1.2), log_size, *command, cwd=war)
            killed += code is None
        if code is None:
            code = genbench(*command, cwd=war).returncode
        logs = [file.read_text() for file in war.glob("runs/*/*/run.log")]
        assert code == 0, "\n".join(logs)[-3000:]
        state, rows = final_state(war)
        assert rows == expected_rows
        assert state.keys() == expected_state.keys()
        different = [key for key in state if not torch.equal(state[key], expected_state[key])]
        assert different == [], f"after {killed} kills"


@pytest.mark.parametrize(("kind", "kills"), [("flow", 7), ("gan", 7), ("vae", 6)])
def test_killed_runs_resume_to_the_same_bits(kind: str, kills: int, tmp_path: Path) -> None:
    survive(kind, kills, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(MODELS))
def test_runs_killed_two_hundred_times_resume_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    survive(kind, 200, tmp_path)
