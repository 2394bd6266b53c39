r"""Out-of-distribution detection: does a model's likelihood tell its test examples from those of another data set?

Three scores, the larger the stranger:

- ``likelihood``: :math:`-\log p(x)`.
- ``typicality``: :math:`|\log p(x) + \hat H|` with the mean :math:`\hat H` of :math:`-\log p` over the validation split
  (Nalisnick, Matsukawa, Teh, Lakshminarayanan 2019, "Detecting out-of-distribution inputs to deep generative models
  using typicality", arXiv 1906.02994, for single examples). An example that is likelier than usual is strange, too.
- ``ratio``: :math:`-\log p(x) - L(x)`, the likelihood ratio against a lossless compressor that takes L(x) nats for x
  (Serra et al. 2020, "Input complexity and out-of-distribution detection with likelihood-based generative models",
  arXiv 1909.11480). The compressor is PNG, which is a background that needs no second model. It compresses pictures
  only.

Likelihood alone is known to fail: models trained on Fashion-MNIST give the digits of MNIST a higher likelihood than
their own data, those of CIFAR-10 the house numbers of SVHN (Nalisnick et al. 2019, "Do deep generative models know what
they don't know?", arXiv 1810.09136). Its AUROC is then below 1/2, and is shown as it is.
"""

import io
import math
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bench.data.base import Data
from bench.errors import BrokenError, UnavailableError, UserError
from bench.metrics.base import Metric
from bench.metrics.detection import aupr, auroc, fpr95
from bench.metrics.draws import per_example
from bench.metrics.intervals import measured
from bench.schema import Estimate, MetricInfo, Relation, Status
from bench.subjects.examples import Examples
from bench.tables.histograms import histograms

__all__ = ["OutOfDistribution", "png_lengths", "strangeness"]

SCORES = {"likelihood": "likelihood", "typicality": "typicality", "ratio": "ratio to PNG"}
DETECTION = {"auroc": ("AUROC", auroc, True), "aupr": ("AUPR", aupr, True), "fpr95": ("FPR95", fpr95, False)}


def png_lengths(x: Tensor) -> Tensor:
    """Return the length of each picture as an optimized PNG, ``(N, C, H, W)`` uint8, C 1 or 3: ``(N,)`` nats."""
    lengths = []
    for picture in x.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(file, "PNG", optimize=True)
        lengths.append(len(file.getvalue()))
    return 8 * math.log(2) * torch.tensor(lengths, dtype=torch.float64)


def strangeness(log_p: Tensor, entropy: float | None, lengths: Tensor | None) -> dict[str, Tensor]:
    """Return the scores of examples by name, ``(N,)`` float64 each.

    Arguments:
        log_p: ``(N,)`` nats.
        entropy: In nats, for ``typicality``.
        lengths: Of their lossless codes, ``(N,)`` nats, for ``ratio``.
    """
    scores = {"likelihood": -log_p}
    if entropy is not None:
        scores["typicality"] = (log_p + entropy).abs()
    if lengths is not None:
        scores["ratio"] = -log_p - lengths
    return scores


class OutOfDistribution(Metric):
    """Computes AUROC, AUPR and FPR95 between the test split and that of another data set, for each of three scores.

    The numbers are called ``ood_auroc_likelihood[OTHER]`` and so on. They are shown as exact (=) where log p(x) is, and
    as estimates (≈) of what it would give where K draws bound or estimate it; the two are never ranked together. Their
    standard errors are over other examples of both sets, with the entropy as it is (``bench.metrics.detection``).

    Arguments:
        data: The other data set, of the same shape and levels.
        n_draws: Number K of draws per example, for a likelihood that is bounded or estimated.

    Raises:
        UserError: There is no other data set.
    """

    def __init__(self, data: Data | None, n_draws: int) -> None:
        if data is None:
            raise UserError("metric.ood.data: name another data set of the same shape, as in metric.ood.data=svhn")
        self.other = data
        self.n_draws = n_draws

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.other.spec.name
        return tuple(
            MetricInfo(f"ood_{what}_{score}[{name}]", "", better, self.version, f"OOD {title}, {words} [{name}]")
            for score, words in SCORES.items()
            for what, (title, _, better) in DETECTION.items()
        )

    def inapplicable(self, examples: Examples) -> dict[str, str]:
        spec = examples.spec
        lacks = {}
        if len(examples.data.val) == 0:
            lacks["typicality"] = "there is no validation split to estimate the entropy on"
        if not spec.is_image or spec.shape[0] not in (1, 3) or spec.levels is None:
            lacks["ratio"] = "the data are not pictures of one or three channels: PNG compresses nothing else"
        return {
            info.name: reason
            for score, reason in lacks.items()
            for info in self.infos(examples)
            if f"_{score}[" in info.name
        }

    def compute(self, examples: Examples) -> list[Estimate]:
        ours, theirs = examples.spec, self.other.spec
        if (ours.shape, ours.levels) != (theirs.shape, theirs.levels):
            raise UnavailableError(f"{theirs.name} has shape {theirs.shape} and {theirs.levels or 'no'} levels, "
                                   f"{ours.name} {ours.shape} and {ours.levels or 'no'}")  # fmt: skip
        inside, outside = examples.real, self.other.test.x
        if min(len(inside), len(outside)) < 2:
            raise BrokenError(f"needs 2 test examples of either data set, not {len(inside)} and {len(outside)}")
        skipped = self.inapplicable(examples)
        # What takes long comes after everything that may be lacking.
        of_ours, of_theirs = self._log_p(examples)
        applies = [score for score in SCORES if not any(f"_{score}[" in name for name in skipped)]
        entropy = self._entropy(examples) if "typicality" in applies else None
        negatives, positives = (
            strangeness(log_p, entropy, png_lengths(x) if "ratio" in applies else None)
            for log_p, x in ((of_ours, inside), (of_theirs, outside))
        )
        exact = Relation(examples.subject.shown_relation) is Relation.EXACT
        about: dict[str, Any] = {
            "relation": Relation.EXACT if exact else Relation.ESTIMATE, "n_real": len(inside) + len(outside),
            "n_draws": len(examples.log_weights(self.n_draws)),
            # The other data stand where features would: numbers of different data are never ranked together.
            "extractor_hash": theirs.revision,
        }  # fmt: skip
        estimates = []
        for info in self.infos(examples):
            if info.name in skipped:
                estimates.append(Estimate(info, status=Status.SKIPPED, reason=skipped[info.name]))
                continue
            _, what, score = info.name.partition("[")[0].split("_")
            value, error = DETECTION[what][1](negatives[score], positives[score])
            estimates.append(measured(info, value, test=error, within=(0.0, 1.0), **about))
        return estimates

    def picture(self, examples: Examples) -> tuple[str, Image.Image]:
        """Return histograms of the log-likelihoods of both test splits."""
        origin, name = examples.subject.origin, self.other.spec.name
        sets = dict(zip((examples.spec.name, name), (one.numpy() for one in self._log_p(examples)), strict=True))
        title = f"{origin.model} on {examples.spec.name}, seed {origin.seed}, {origin.checkpoint}"
        bound = {"exact": "", "lower_bound": f", bound of K = {self.n_draws} draws"}
        unit = f"log-likelihood in nats{bound.get(examples.relation, ', estimate')}"
        return f"ood-{name}", histograms(sets, title, unit)

    def _log_p(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """The log-likelihoods of both test splits, or their bounds or estimates.

        Raises:
            BrokenError: One is NaN or plus infinity.
        """
        relation = Relation(examples.relation) if examples.relation else Relation.ESTIMATE
        found = [
            per_example(examples.log_weights(self.n_draws, x), relation) for x in (examples.real, self.other.test.x)
        ]
        for log_p, data in zip(found, (examples.spec, self.other.spec), strict=True):
            bad = int((log_p.isnan() | (log_p == math.inf)).sum())
            if bad > 0:
                raise BrokenError(f"log-likelihood is not a number for {bad} of {len(log_p)} examples of {data.name}")
        return found[0], found[1]

    def _entropy(self, examples: Examples) -> float:
        relation = Relation(examples.relation)
        entropy = -per_example(examples.log_weights(self.n_draws, examples.data.val.x), relation).mean().item()
        if not math.isfinite(entropy):
            raise BrokenError("log-likelihood is not finite for examples of the validation split")
        return entropy
