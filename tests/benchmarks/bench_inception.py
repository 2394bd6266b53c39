"""Compute the Fréchet Inception distance that torch-fidelity publishes for CIFAR-10, on the same images.

    python tests/benchmarks/bench_inception.py [--data FOLDER] [--weights FILE] [--out results/benchmarks/inception.csv]

5,000 images of CIFAR-10's 50,000 for training against 5,000 of its 10,000 for testing, each drawn without replacement
by NumPy's ``RandomState(2020)``. torch-fidelity's own tests want 10.3233274 (its ``tests/torch_pure/test_cifar10.py``).
Takes twenty minutes to an hour on one core. Features are kept in the cache as they are made: a second call goes on
where the first ended. Exit code 1 where the value differs by more than 1e-6.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np
import torch

from bench.data.cifar import cifar10
from bench.features.inception import Inception
from bench.features.stored import stored_features
from bench.metrics.frechet import frechet_distance_from_features

PUBLISHED = 10.3233274
WITHIN = 1e-6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="data.path of cifar10")
    parser.add_argument("--weights", help="weights of conf/features/inception.yaml")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    data = cifar10(args.data)
    begin = time.perf_counter()
    extractor = Inception(args.weights).extractor(data, note=lambda line: print(line, file=sys.stderr, flush=True))
    sides = []
    for x in (torch.cat([data.train.x, data.val.x]), data.test.x):
        chosen = np.random.RandomState(2020).choice(len(x), 5000, replace=False)
        sides.append(stored_features(extractor, x[torch.from_numpy(chosen)]))
    value = frechet_distance_from_features(*sides)
    seconds = time.perf_counter() - begin
    print(f"FID {value:.8f}, published {PUBLISHED}, difference {value - PUBLISHED:.1e}, {seconds:.0f} s")
    if args.out is not None:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["images", "published", "genbench", "difference", "extractor_hash"])
            writer.writerow(["cifar10 5000 train, 5000 test", PUBLISHED, f"{value:.8f}", f"{value - PUBLISHED:.1e}",
                             extractor.hash])  # fmt: skip
    return 0 if abs(value - PUBLISHED) < WITHIN else 1


if __name__ == "__main__":
    sys.exit(main())
