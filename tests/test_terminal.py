"""Text of strangers cannot act on a terminal: of messages, checkpoints, names and comments."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_runs import TINY

from bench.checkpoint import save_checkpoint
from bench.cli.main import main
from bench.config.compose import compose_runs
from bench.errors import UserError
from bench.plain import plain


@pytest.mark.parametrize("character", [*map(chr, range(32)), "\x7f", "\x9b", "\u202e", "\u2066", "\u200f", "\ud800"])
def test_no_character_acts_on_a_terminal(character: str) -> None:
    assert plain(f"a{character}b") == "a b"
    assert str(UserError(f"a{character}b")) == "a b"
    assert plain("Grüße, 数据 ± 1") == "Grüße, 数据 ± 1"


WILD = "a\x1b[31mb\x07c\nd\u202ee\x9bf\u2066g\rh"


@pytest.mark.parametrize("where", ["key", "name", "target", "weights", "choice"])
def test_a_checkpoints_text_cannot_act_on_the_terminal(
    where: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose_runs(["model=gaussian", *TINY])[0]
    state: dict[str, Any] = {}
    if where == "key":
        config[WILD] = 1
    elif where == "name":
        config["name"] = WILD
    elif where == "target":
        config["model"]["_target_"] = WILD
    elif where == "choice":
        config["choices"]["model"] = WILD
    else:
        state[WILD] = torch.zeros(1)
    payload = {"config": json.dumps(config), "state_dict": state, "progress": {}}
    save_checkpoint(workplace / "x.ckpt", payload)
    if where != "key":  # a key of a later version is passed over
        assert main(["evaluate", "x.ckpt"]) != 0
    else:
        main(["evaluate", "x.ckpt"])
    printed = capsys.readouterr()
    text = printed.err + printed.out
    assert text != ""
    assert not set(text) & set("\x1b\x07\x9b\u202e\u2066\r")


def test_a_searched_folders_names_and_comments_cannot_act_on_the_terminal(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "own" / "model").mkdir(parents=True)
    (workplace / "own" / "model" / "a\x1b[31mb.yaml").write_text("# comment \x1b[2J\u202e\n")
    os.mkfifo(workplace / "own" / "model" / "pipe.yaml")
    assert main(["list", "models", f"hydra.searchpath=[file://{workplace}/own]"]) == 0
    printed = capsys.readouterr().out
    assert "a [31mb" in printed
    assert "comment" in printed
    assert not set(printed) & set("\x1b\u202e")
