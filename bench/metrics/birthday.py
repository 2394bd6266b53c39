r"""Estimate how many different examples a model can generate, by the birthday paradox.

Two draws coincide with probability :math:`p_2 = \sum_i p_i^2`. If C of the :math:`\binom{s}{2}` pairs among s draws
coincide, :math:`C / \binom{s}{2}` is an unbiased estimate of :math:`p_2`, and :math:`N_{\text{eff}} = 1/p_2` is the
Rényi-2 support. It is a lower bound on the number of different examples, with equality if all are equally likely. This
makes the test of Arora, Risteski, Zhang 2018, "Do GANs learn the distribution? Some theory and empirics", quantitative.

Copies need not be exact, so two samples coincide if their distance is below a threshold. The threshold is calibrated:
among n held-out real examples, a given number of pairs (one) is that close. Distances are divided by the local radius
within the batch, because samples with less contrast or detail than the data have small distances without being copies.
Pixels are compared after ``registered``, which takes back shifts and averages noise away, and up to a turn
(``bench.metrics.turned``).

The verdict comes before the number (``bench.metrics.controls``):

- *supported*: the controls pass and there are more pairs than chance explains. The number is an estimate.
- *at least*: the controls pass and chance explains the pairs. The number is a lower bound.
- *inconclusive*: a control fails. There is no number, and the row says why.

For pictures the result does not change with the contrast or the offset of the samples, :math:`x \to a x + b` with
numbers a > 0 and b: before they are compared with real examples, they are given the mean and the standard deviation
that the real ones have over all entries. Of vectors the scale is kept: points that all lie close together are copies.
"""

from bench.errors import UserError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.calibration import measured_support, near_duplicate_support
from bench.schema import Estimate, MetricInfo
from bench.subjects.examples import Examples

__all__ = ["Birthday", "near_duplicate_support"]


class Birthday(Metric):
    """Computes ``support[<features>]``: the Rényi-2 support of the subject, N_eff, or why it cannot be known.

    The threshold comes from n real examples, where n is the number of distinct held-out ones or of samples, whichever
    is smaller. Batches of n, 2n, 4n, ... samples are tried until the upper limit is at most twice the lower one, or
    until all samples are used. So s samples give ``false_pairs`` s(s-1) / n(n-1) pairs by chance. ``n_fake`` is the
    number of samples there are.

    Version 2 does not depend on the contrast and offset of pictures, and computes distances in float64. Version 3 sees
    through shifts and noise, has controls and an interval that holds for skewed distributions, and uses all samples.
    Version 4 finds copies that are turned, and turns the planted copies of the controls as the samples' own pairs are.

    Arguments:
        features: Recipe of the feature space in which distances are measured. On digits, pixels work better than the
            classifier's features: they find more noisy and more distorted copies, and samples without fine detail do
            not collapse to one point.
        n_samples: Number of the subject's samples.
        false_pairs: Expected number of close pairs by chance among n real examples, at least 1.

    Raises:
        UserError: ``false_pairs`` is below 1.
    """

    version = 4

    def __init__(self, features: Recipe, n_samples: int, false_pairs: int = 1) -> None:
        if false_pairs < 1:
            raise UserError(f"metric.birthday.false_pairs={false_pairs}: must be at least 1")
        self.recipe = features
        self.n_samples = n_samples
        self.false_pairs = false_pairs

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        # No direction: more is better only up to what the data have, and noise has more than any data.
        return (MetricInfo(f"support[{name}]", "", None, self.version, "N_eff", rank=50),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        return [measured_support(examples, self.recipe, self.n_samples, self.false_pairs, info)]
