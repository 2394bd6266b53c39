"""DINOv2: its transformer against torch's own layers, pictures against Pillow, and what its files must hold."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_metrics import examples, spec
from helpers_models import configuration, small_data
from PIL import Image
from torch import Generator, Tensor, nn

from bench.config.build import build_metrics
from bench.data.bytes.cache import DataFile, sha256
from bench.errors import UserError
from bench.evaluation.evaluate import evaluate
from bench.features import dinov2
from bench.features.dinov2 import L14, S14, ViTS14, prepared, resized
from bench.features.vit import GRID, PATCH, VisionTransformer

WIDTH, DEPTH, HEADS = 8, 2, 2
State = dict[str, Tensor]


def network(seed: int = 0) -> VisionTransformer:
    """A tiny network of chance, whose every parameter matters."""
    made = VisionTransformer(WIDTH, DEPTH, HEADS)
    random = Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.5, generator=random)
    return made.eval()


def pictures(n: int, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    return torch.randint(0, 256, (n, channels, height, width), generator=Generator().manual_seed(0)).to(torch.uint8)


def put(path: Path, state: object, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a file of these contents count as the published small network's, which no source has."""
    torch.save(state, path)
    count(path, monkeypatch)
    return path


def count(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DataFile(S14.file.name, sha256(path), path.stat().st_size)
    monkeypatch.setattr(ViTS14, "published", replace(S14, file=file, width=WIDTH, depth=DEPTH, heads=HEADS))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the small network in an otherwise empty cache; no download has a file."""
    monkeypatch.setattr(dinov2.Published, "source", property(lambda published: Nowhere()))
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    home = tmp_path / "cache" / "dinov2_vits14"
    home.mkdir(parents=True)
    return home


class Nowhere(dinov2.Download):
    """A download that has nothing."""

    def __init__(self) -> None:
        super().__init__("https://example.invalid")

    def deliver(self, files: object, folder: Path) -> None:
        return


@pytest.mark.parametrize(("published", "parameters", "entries"), [(S14, 22_056_576, 175), (L14, 304_368_640, 343)])
def test_the_networks_have_the_published_sizes(published: dinov2.Published, parameters: int, entries: int) -> None:
    with torch.device("meta"):
        made = VisionTransformer(published.width, published.depth, published.heads)
    assert sum(parameter.numel() for parameter in made.parameters()) == parameters
    assert len(made.state_dict()) == entries
    assert 0 < published.file.size - 4 * parameters < 400 * entries, "the rest of the file names its entries"


def layer(state: State, block: int) -> nn.TransformerEncoderLayer:
    """Torch's own layer with the weights of a block, the factors folded into the last map of each part."""
    own = {key.removeprefix(f"blocks.{block}."): value for key, value in state.items()}
    made = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    given = {}
    for part in ("weight", "bias"):
        given |= {f"{norm}.{part}": own[f"{norm}.{part}"] for norm in ("norm1", "norm2")}
        given[f"linear1.{part}"] = own[f"mlp.fc1.{part}"]
        given[f"self_attn.in_proj_{part}"] = own[f"attn.qkv.{part}"]
        given[f"self_attn.out_proj.{part}"] = torch.einsum("i,i...->i...", own["ls1.gamma"], own[f"attn.proj.{part}"])
        given[f"linear2.{part}"] = torch.einsum("i,i...->i...", own["ls2.gamma"], own[f"mlp.fc2.{part}"])
    made.double().load_state_dict(given)
    return made.train()  # without dropout; in evaluation torch may take another path of fused kernels


def bicubic(grid: Tensor, rows: int) -> Tensor:
    """A grid ``(37, 37, C)`` at ``rows`` x ``rows`` points ``37 / (rows + 0.1)`` apart, by hand in float64."""
    a, apart = -0.75, 37 / (rows + 0.1)
    weights = torch.zeros(rows, 37, dtype=torch.float64)
    for i in range(rows):
        place = (i + 0.5) * apart - 0.5
        for j in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            t = abs(place - j)
            near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * (t**3 - 5 * t**2 + 8 * t - 4)
            weights[i, min(max(j, 0), 36)] += near if t <= 1 else far
    return torch.einsum("ia,jb,abc->ijc", weights, weights, grid.double())


@torch.no_grad()
def test_the_transformer_is_that_of_torchs_layers() -> None:
    made = network().double()
    state = made.state_dict()
    x = torch.randn(3, 3, 224, 224, generator=Generator().manual_seed(1)).double()
    patches = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (N, 3, 16, 16, 14, 14)
    kernel = state["patch_embed.proj.weight"]
    tokens = torch.einsum("ncijab,wcab->nijw", patches, kernel).flatten(1, 2) + state["patch_embed.proj.bias"]
    grid = bicubic(state["pos_embed"][0, 1:].unflatten(0, (37, 37)), 16).flatten(0, 1)
    first = (state["cls_token"] + state["pos_embed"][:, :1]).expand(3, -1, -1)
    tokens = torch.cat([first, tokens + grid], 1)
    for block in range(DEPTH):
        tokens = layer(state, block)(tokens)
    expected = nn.functional.layer_norm(tokens[:, 0], (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)
    torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-10)


def test_positions_of_their_own_grid_are_left_as_they_are_and_others_interpolated() -> None:
    made = network()
    assert torch.equal(made.positions(GRID, GRID), made.pos_embed)
    grid = made.pos_embed[0, 1:].unflatten(0, (37, 37))
    for rows in (16, 5, 40):
        found = made.positions(rows, rows)
        assert torch.equal(found[:, 0], made.pos_embed[:, 0]), "the class token has its own"
        torch.testing.assert_close(
            found[0, 1:].unflatten(0, (rows, rows)).double(), bicubic(grid, rows), rtol=0, atol=1e-5
        )
    assert made.positions(3, 6).shape == (1, 19, WIDTH)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (300, 181), (224, 224), (1, 500)])
def test_pictures_are_resized_as_pillow_does(height: int, width: int) -> None:
    x = pictures(1, 3, height, width)
    image = Image.fromarray(x[0].permute(1, 2, 0).numpy())
    for size in ((224, height), (224, 224)):  # in one step Pillow 13 may begin with the other side
        image = image.resize(size, Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    apart = (resized(x.float(), whole=True) - expected).abs()
    assert apart.max() <= 1, "Pillow computes in whole numbers"
    assert apart.mean() < 2e-3


def test_what_reaches_the_network() -> None:
    grey = torch.tensor([0, 3], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 6, 4)
    made = prepared(grey, levels=4)
    assert made.shape == (2, 3, 224, 224), "grey in all three channels, stretched"
    for level, picture in zip((0, 1), made, strict=True):
        for channel, mean, deviation in zip(picture, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True):
            torch.testing.assert_close(channel, torch.full((224, 224), (level - mean) / deviation))


def test_pictures_between_levels_are_not_rounded() -> None:
    x = pictures(1).float()
    step = prepared(x + 1e-3, 256) - prepared(x, 256)
    assert (step != 0).double().mean() > 0.9
    assert (prepared(x, 256) - prepared(x.to(torch.uint8), 256)).abs().max() < 2 / 255 / 0.224


def test_weights_come_from_the_users_file_or_the_cache_and_from_nowhere_unchecked(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_data((3, 8, 8), 256, n=40, held_out=30)
    x = pictures(27)  # two batches
    file = put(tmp_path / S14.file.name, network().state_dict(), monkeypatch)
    extractor = ViTS14(str(file)).extractor(data)
    assert extractor.name == "dinov2_vits14"
    with torch.no_grad():
        expected = network()(prepared(x, 256))
    torch.testing.assert_close(extractor.features(x), expected, rtol=0, atol=1e-5)
    grey = ViTS14(str(file)).extractor(small_data((1, 8, 8), 256)).features(x[:2, :1])
    torch.testing.assert_close(grey, extractor.features(x[:2, :1].expand(-1, 3, -1, -1)))
    assert ViTS14(str(tmp_path)).extractor(data).hash == extractor.hash
    assert ViTS14(str(file)).extractor(small_data((3, 8, 8), 4)).hash != extractor.hash
    with pytest.raises(UserError, match=r"could not get dinov2_vits14_pretrain.pth.*set features.weights to it"):
        ViTS14().extractor(data)
    file.rename(cache / file.name)
    assert ViTS14().extractor(data).hash == extractor.hash
    file.write_bytes((cache / file.name).read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"holds other bytes; expected .* bytes with SHA-256"):
        ViTS14(str(tmp_path)).extractor(data)
    with pytest.raises(UserError, match=r"none of the published archives; set features\.weights"):
        ViTS14(str(file)).extractor(data)


def without(state: State) -> object:
    return {key: value for key, value in state.items() if key != "blocks.1.ls2.gamma"}


def with_registers(state: State) -> object:
    return state | {"register_tokens": torch.zeros(1, 4, WIDTH)}


def narrow(state: State) -> object:
    return state | {"mask_token": torch.zeros(1, WIDTH - 1)}


def halves(state: State) -> object:
    return state | {"norm.bias": state["norm.bias"].half()}


def a_list(state: State) -> object:
    return list(state.values())


FLAWS = [(without, r"lacks blocks\.1\.ls2\.gamma, 1 such"), (with_registers, "has the unknown register_tokens, 1 such"),
         (narrow, r"mask_token is torch\.float32 \(1, 7\) instead of torch\.float32 \(1, 8\)"),
         (halves, r"norm\.bias is torch\.float16"), (a_list, "holds a list, not a state dict")]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), FLAWS)
def test_a_file_with_other_entries_is_refused(
    change: Callable[[State], object], said: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache / S14.file.name, change(network().state_dict()), monkeypatch)
    refused(said)


class Stranger:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return pytest.fail, ("code of the file was run",)


def test_a_cut_file_is_refused_and_no_code_of_one_is_run(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(cache / S14.file.name, network().state_dict(), monkeypatch)
    file.write_bytes(file.read_bytes()[:5000])
    refused("could not get dinov2_vits14_pretrain.pth")
    count(file, monkeypatch)  # as if that were published
    refused("cannot be read")
    put(file, {"cls_token": Stranger()}, monkeypatch)
    refused("cannot be read")


def refused(said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        ViTS14().extractor(small_data((3, 8, 8), 256))
    assert "\n" not in str(caught.value)
    assert "dinov2_vits14" in str(caught.value)


def test_what_dinov2_cannot_see() -> None:
    assert "integer levels" in ViTS14().lacks(small_data((5,), 256))
    assert "not 2" in ViTS14().lacks(small_data((2, 8, 8), 256))
    assert ViTS14().lacks(small_data((1, 8, 8), 4)) == ""


def test_a_distance_by_its_name_on_the_command_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache / S14.file.name, network().state_dict(), monkeypatch)
    config = configuration("vae", "metric=[fid]", "metric.fid.features=dinov2_vits14")
    metrics = build_metrics(config["metric"])
    real, samples = pictures(20), pictures(40)[20:] // 2
    given = examples(replace(spec(2, 256), shape=(3, 8, 8)), real=real, samples=samples)
    (found,) = evaluate(given, metrics)["fid"]
    assert found.info.name.startswith("fid[dinov2_vits14]")
    with torch.no_grad():
        features = [network()(prepared(x, 256)).double() for x in (real, samples)]
    assert found.value == pytest.approx(frechet(*features), rel=1e-4)


def frechet(real: Tensor, made: Tensor) -> float:
    """The Fréchet distance, its square root of a matrix by eigenvalues of the product."""
    first, second = real.T.cov(), made.T.cov()
    root = torch.linalg.eigvals(first @ second).real.clamp_min(0).sqrt().sum()
    apart = (real.mean(0) - made.mean(0)).square().sum()
    return (apart + first.trace() + second.trace() - 2 * root).item()
