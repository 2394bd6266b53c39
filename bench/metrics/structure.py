"""What a model is made of, as far as it can be asked: the size of its latent code, and whether it has an encoder."""

from bench.errors import UnavailableError
from bench.metrics.base import Metric
from bench.schema import Estimate, MetricInfo, Status
from bench.subjects.examples import Examples

__all__ = ["Structure"]

INFOS = (
    MetricInfo("latent_share", "", None, title="latent / data dimensions", rank=310),
    MetricInfo("encoder", "", None, title="encoder", rank=311),
)


class Structure(Metric):
    """Computes ``latent_share``, Z / D: latent dimensions over entries of an example; and ``encoder``, 1 or 0.

    A model without codes (autoregressive, masked diffusion) has no ``latent_share``. Neither number ranks anything.
    """

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return INFOS

    def compute(self, examples: Examples) -> list[Estimate]:
        share, encoder = INFOS
        try:
            size, encodes = examples.subject.codes(examples.real[:1]).shape[1], 1.0
        except UnavailableError:
            encodes = 0.0
            try:
                size = examples.subject.latent_dim()
            except UnavailableError as lack:
                reason = f"no latent code: {lack}"
                return [Estimate(share, status=Status.SKIPPED, reason=reason), Estimate(encoder, encodes)]
        return [Estimate(share, size / examples.spec.dim), Estimate(encoder, encodes)]
