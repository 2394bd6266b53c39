"""Measure how well the neighbours in each extractor's features know the class of a photograph.

    python tests/benchmarks/bench_extractors.py [--only NAME ...] [--out results/benchmarks/extractors.csv]

The class of each of 1,000 test images of CIFAR-10 is guessed as that of most of its 20 nearest neighbours (Euclidean,
in the features as metrics see them) among 2,000 training images; no training on labels but the in-domain classifier's
own. The images are the first of those that ``bench_inception.py`` draws, so slow features are shared with it. Rows of
extractors that are not asked for stay in the file.
"""

import argparse
import csv
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.data.cifar import cifar10
from bench.errors import UserError
from bench.features.base import Recipe
from bench.features.classifier import InDomainClassifier
from bench.features.dinov2 import ViTL14, ViTS14
from bench.features.efficientnet import EfficientNetLite0
from bench.features.inception import Inception
from bench.features.pixels import Pixels
from bench.features.sscd import SSCD
from bench.features.stored import stored_features
from bench.metrics.pairs import squared_distances

RECIPES: dict[str, Recipe] = {
    "pixels": Pixels(),
    "classifier": InDomainClassifier(),
    "efficientnet_lite0": EfficientNetLite0(),
    "inception": Inception(),
    "sscd": SSCD(),
    "dinov2_vits14": ViTS14(),
    "dinov2_vitl14": ViTL14(),
}
NEIGHBOURS, TRAIN, TEST = 20, 2000, 1000
COLUMNS = ("features", "name", "dimension", "knn_accuracy", "stderr", "hash")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="data.path of cifar10")
    parser.add_argument("--sscd", help="weights of conf/features/sscd.yaml")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    data = cifar10(args.data)
    recipes = RECIPES | {"sscd": SSCD(args.sscd)}
    train, test = torch.cat([data.train.x, data.val.x]), data.test.x
    assert data.train.y is not None
    assert data.val.y is not None
    assert data.test.y is not None
    classes = torch.cat([data.train.y, data.val.y])
    chosen, asked = chosen_of(len(train))[:TRAIN], chosen_of(len(test))[:TEST]
    rows = {} if args.out is None or not args.out.exists() else read(args.out)
    for key in args.only:
        try:
            extractor = recipes[key].extractor(data, lambda line: print(line, file=sys.stderr, flush=True))
        except UserError as error:
            print(f"{key}: {error}", file=sys.stderr)
            continue
        extract = stored_features if extractor.is_slow else lambda extractor, x: extractor.features(x)
        features = extract(extractor, train[chosen])
        accuracy = knn_accuracy(features, classes[chosen], extract(extractor, test[asked]), data.test.y[asked])
        error = math.sqrt(accuracy * (1 - accuracy) / TEST)
        values = (key, extractor.name, features.shape[1], f"{accuracy:.3f}", f"{error:.3f}", extractor.hash)
        rows[key] = dict(zip(COLUMNS, map(str, values), strict=True))
        print(rows[key], flush=True)
    if args.out is not None:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[key] for key in RECIPES if key in rows)


def chosen_of(n: int) -> Tensor:
    """Indices of 5,000 of n images, as torch-fidelity's tests draw them."""
    return torch.from_numpy(np.random.RandomState(2020).choice(n, 5000, replace=False))


def knn_accuracy(train: Tensor, classes: Tensor, test: Tensor, truth: Tensor) -> float:
    """The share of test examples whose class most of their 20 neighbours have; of equal votes the first counts."""
    centre = train.double().mean(0)
    near = squared_distances(test.double() - centre, train.double() - centre).topk(NEIGHBOURS, largest=False).indices
    votes = torch.nn.functional.one_hot(classes[near], int(classes.max()) + 1).sum(1)
    return (votes.argmax(1) == truth).double().mean().item()


def read(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["features"]: row for row in csv.DictReader(file)}


if __name__ == "__main__":
    main()
