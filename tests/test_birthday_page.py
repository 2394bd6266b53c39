"""The page of close pairs: which pairs and decoys it shows, and what it hides."""

import base64
import io
import itertools
import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from helpers_birthday import ORIGIN, chosen_of, key_of
from helpers_metrics import FakeClassifier, FakeRecipe
from PIL import Image
from torch import Generator, Tensor

from bench.birthday.page import LARGEST, make_page
from bench.birthday.pairs import choose, jittered
from bench.data.base import Data, Split
from bench.errors import UserError
from bench.metrics.turned import turned
from bench.schema import DataSpec
from bench.subjects.examples import Examples
from bench.subjects.samples import GivenSamples


def test_the_closest_pairs_are_the_planted_ones(digits: Data, planted: tuple[Tensor, Tensor]) -> None:
    x, pick = planted
    subject = GivenSamples(x, 0, ORIGIN)
    samples = subject.samples(500)
    order = torch.tensor([int((x == one).flatten(1).all(1).nonzero()[0]) for one in samples])
    truth = pick[order]
    copied = sum(int((truth[:k] == truth[k]).sum()) for k in range(500))
    chosen = choose(Examples(subject, digits, seed=0), 1000, copied)
    candidates = [pair for pair in chosen.shown if pair.kind == "candidate"]
    assert copied > 20
    assert len(candidates) == copied
    assert np.mean([truth[pair.first] == truth[pair.second] for pair in candidates]) > 0.95
    for pair, pictures in zip(chosen.shown, chosen.pictures, strict=True):
        if pair.kind == "candidate":
            assert torch.equal(pictures, samples[[pair.first, pair.second]])


def test_shifted_copies_are_on_the_page(digits: Data) -> None:
    """Pairs are those that the metric counts: it takes a shift by two pixels back."""
    generator = Generator().manual_seed(3)
    pick = torch.randint(200, (300,), generator=generator)
    moves = torch.randint(-2, 3, (300, 2), generator=generator).tolist()
    shifted = [digits.train.x[one].roll(move, (1, 2)) for one, move in zip(pick.tolist(), moves, strict=True)]
    subject = GivenSamples(torch.stack(shifted), 0, ORIGIN)
    chosen = choose(Examples(subject, digits, seed=0), 300, 100)
    truth = pick[subject.order]
    candidates = [pair for pair in chosen.shown if pair.kind == "candidate"]
    assert np.mean([truth[pair.first] == truth[pair.second] for pair in candidates]) > 0.9


class RightHalves(FakeClassifier):
    def features(self, x: Tensor) -> Tensor:
        return x[..., 14:].flatten(1).float()


def test_pairs_may_be_close_in_the_features_of_a_network(digits: Data) -> None:
    """Pictures that share their right half alone are far apart in pixels."""
    x = digits.train.x[:300].clone()
    x[200:230, ..., 14:] = x[:30, ..., 14:]
    order = GivenSamples(x, 0, ORIGIN).order
    shared = {frozenset((k, k + 200)) for k in range(30)}

    def found(recipe: FakeRecipe | None) -> int:
        chosen = choose(Examples(GivenSamples(x, 0, ORIGIN), digits, seed=0), 300, 30, recipe)
        pairs = [
            frozenset(order[[pair.first, pair.second]].tolist()) for pair in chosen.shown if pair.kind == "candidate"
        ]
        return len(shared & set(pairs))

    assert found(FakeRecipe(RightHalves())) > 25
    assert found(None) < 10


def test_turned_copies_are_on_the_page(digits: Data) -> None:
    generator = Generator().manual_seed(4)
    pick = torch.randint(200, (300,), generator=generator)
    angle = (2 * torch.rand(300, generator=generator) - 1) * math.radians(10)
    subject = GivenSamples(turned(digits.train.x[pick], angle).round().clamp(0, 255).to(torch.uint8), 0, ORIGIN)
    chosen = choose(Examples(subject, digits, seed=0), 300, 100)
    truth = pick[subject.order]
    candidates = [pair for pair in chosen.shown if pair.kind == "candidate"]
    assert np.mean([truth[pair.first] == truth[pair.second] for pair in candidates]) > 0.9


def test_decoys_are_what_the_key_says(digits: Data, planted: tuple[Tensor, Tensor]) -> None:
    chosen = chosen_of(planted[0], digits)
    held = torch.cat([digits.val.x, digits.test.x]).double()
    candidates = [kind.kind == "candidate" for kind in chosen.shown]
    left, right = chosen.pictures[candidates].double().unbind(1)
    aim = 1.1 * (left - right).flatten(1).norm(dim=1).max()  # in the samples' contrast, which jitter changes a little
    used: list[int] = []
    for pair, pictures in zip(chosen.shown, chosen.pictures.double(), strict=True):
        if pair.kind == "candidate":
            continue
        originals = held[[pair.first, pair.second]]
        moved = (pictures - originals).flatten(1).norm(dim=1)
        apart = (originals[0] - originals[1]).norm()
        assert (pair.first == pair.second) == (pair.kind == "same")
        assert (moved > 0).all(), "both pictures of every decoy are jittered, so that noise tells nothing"
        used += {pair.first, pair.second}
        if pair.kind == "same":
            assert pair.distance <= aim
        else:
            assert apart > moved.max()
    assert len(used) == len(set(used)) == 60, "20 pairs of 40 examples and 20 single ones"


def test_jitter_has_the_distance_that_is_asked_for(digits: Data) -> None:
    x = digits.test.x[:40]
    for distance in (0.0, 30.0, 300.0, 900.0):
        made = jittered(x, torch.full((40,), distance), 256, Generator().manual_seed(1))
        moved = (made.double() - x.double()).flatten(1).norm(dim=1)
        assert (moved <= distance).all()
        assert (moved >= 0.9 * distance).all()
    two = (x > 127).to(torch.uint8)
    flipped = (jittered(two, torch.full((40,), 4.0), 2, Generator().manual_seed(1)) != two).flatten(1).sum(1)
    assert int(flipped.max()) <= 16
    assert int(flipped.min()) >= 8


def test_neighbours_are_the_nearest_training_examples(digits: Data, planted: tuple[Tensor, Tensor]) -> None:
    chosen = chosen_of(planted[0], digits, candidates=2)
    train = digits.train.x.flatten(1).double()
    for pictures, neighbours in zip(
        chosen.pictures[:5].flatten(0, 1), chosen.neighbours[:5].flatten(0, 1), strict=True
    ):
        nearest = (train - pictures.flatten().double()).square().sum(1).min()
        assert (neighbours.double() - pictures.double()).square().sum() == nearest


def data_in(page: bytes) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.decode(), re.DOTALL)
    content: dict[str, Any] = json.loads(text)
    return content


def test_the_page_shows_the_pictures_and_hides_the_truth(digits: Data, planted: tuple[Tensor, Tensor]) -> None:
    chosen = chosen_of(planted[0], digits)
    key = key_of(chosen)
    page = make_page(chosen, key, 256, "birthday")
    content = data_in(page)
    assert [row[0] for row in content["pairs"]] == [pair.hash for pair in key.pairs]
    for row, pictures in zip(content["pairs"], chosen.pictures, strict=True):
        for index, picture in zip(row[1:3], pictures, strict=True):
            png = base64.b64decode(content["images"][index].removeprefix("data:image/png;base64,"))
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), picture[0].numpy())
    assert set(content) == {
        "format", "page", "name", "model", "dataset", "samples", "width", "height", "pairs", "images",
    }  # fmt: skip
    assert all(set(map(type, row[1:])) == {int} for row in content["pairs"])
    assert b"candidate" not in page
    assert b"decoy" not in page
    kinds = [pair.kind for pair in key.pairs]
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    assert changes > 25, "kinds are mixed: 39 changes are expected of 60 pairs in random order"
    seen = [index for row in content["pairs"] for index in row[1:]]
    assert list(dict.fromkeys(seen)) == list(range(len(content["images"]))), "images are numbered as they are shown"
    assert b"<script>alert" not in page
    assert b"\\u003cscript\\u003ealert(1)" in page
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert policy.encode() in page
    assert not re.search(rb"https?://", page)


def test_the_same_seed_makes_the_same_page_and_another_seed_another(
    digits: Data, planted: tuple[Tensor, Tensor]
) -> None:
    first, again = (chosen_of(planted[0], digits) for _ in range(2))
    assert first.shown == again.shown
    assert torch.equal(first.pictures, again.pictures)
    other = choose(Examples(GivenSamples(planted[0], 0, ORIGIN), digits, seed=1), 1000, 20)
    assert [pair.kind for pair in first.shown] != [pair.kind for pair in other.shown]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    chosen_of(planted[0], digits)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_collapsed_model_has_pairs_of_its_own(digits: Data) -> None:
    """All samples are equal: pairs of equal pictures keep different names, and copies are shown without jitter."""
    chosen = chosen_of(digits.test.x[:1].repeat(100, 1, 1, 1), digits)
    assert len({pair.hash for pair in chosen.shown}) == len(chosen.shown) == 60
    assert all(pair.distance == 0 for pair in chosen.shown if pair.kind == "candidate")
    constant = chosen_of(torch.zeros((100, 1, 28, 28), dtype=torch.uint8), digits)
    assert len(constant.shown) == 60


def coloured(n: int, side: int) -> Data:
    """Smooth blobs of colour."""
    coarse = torch.rand((n, 3, 4, 4), generator=Generator().manual_seed(0))
    x = (255 * torch.nn.functional.interpolate(coarse, side, mode="bilinear")).to(torch.uint8)
    spec = DataSpec("photographs", "r", (3, side, side), 256, n // 2, n // 4, n // 4)
    return Data(spec, Split(x[: n // 2]), Split(x[n // 2 : 3 * n // 4]), Split(x[3 * n // 4 :]))


def test_large_pictures_are_compressed_and_too_many_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = coloured(200, 32)
    chosen = chosen_of(data.train.x, data, candidates=10)
    key = key_of(chosen)
    whole = make_page(chosen, key, 256, "birthday")
    assert len(whole) <= LARGEST
    sizes = []
    for _ in range(3):
        page = make_page(chosen, key, 256, "birthday")
        kinds = {uri.partition(";")[0] for uri in data_in(page)["images"]}
        assert len(kinds) == 1, "one encoding for all"
        sizes.append((len(page), kinds.pop()))
        monkeypatch.setattr("bench.birthday.page.LARGEST", len(page) - 1)
    assert [kind for _, kind in sizes] == ["data:image/png", "data:image/webp", "data:image/webp"]
    assert sizes[0][0] > sizes[1][0] > sizes[2][0]
    with pytest.raises(UserError, match=r"MB are written; show fewer, as in pairs=5"):
        make_page(chosen, key, 256, "birthday")


def test_what_cannot_be_judged_is_refused(digits: Data) -> None:
    points = Split(torch.zeros(100, 2))
    with pytest.raises(UserError, match="only pictures can be judged"):
        chosen_of(torch.zeros(100, 2), Data(DataSpec("toy", "r", (2,), None, 100, 100, 100), points, points, points))
    with pytest.raises(UserError, match=r"49 samples and 1000 different held-out examples; at least 50"):
        chosen_of(digits.test.x[:49], digits)


def test_copies_that_decoys_show_are_no_farther_apart_than_different_examples(digits: Data) -> None:
    """Samples without copies are far apart: the closest of them too far for a decoy of one example."""
    chosen = chosen_of(digits.train.x[:300], digits)
    held = torch.cat([digits.val.x, digits.test.x]).double()
    apart = [float((held[one.first] - held[one.second]).norm()) for one in chosen.shown if one.kind == "different"]
    same = [one.distance for one in chosen.shown if one.kind == "same"]
    assert len(same) == 20
    assert max(same) <= min(apart) * (1 + 1e-9)
