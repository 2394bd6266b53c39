"""The update of an inverse autoregressive flow, and a chain of such flows for a VAE's posterior."""

from dataclasses import dataclass

from torch import Tensor

from .autoregressive import autoregressive_layers
from .base import Chain
from .permute import with_reversals
from .univariate import Univariate

__all__ = ["SigmoidGate", "iaf_layers"]


@dataclass(frozen=True)
class SigmoidGate(Univariate):
    r"""A gate between x and a new value m. P = 2: m, then the raw gate s.

    .. math:: z = \sigma x + (1 - \sigma)\, m, \quad \sigma = \epsilon + (1 - \epsilon) \operatorname{sigmoid}(s + 2),
        \quad \log dz/dx = \log\sigma

    (Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling 2016, Improving variational inference with inverse
    autoregressive flow, arXiv:1606.04934, equations 13 and 14, with :math:`\epsilon = 0`.) All-zero parameters are not
    the identity but z = 0.88 x: the paper recommends that s starts at +1 or +2, so that a flow changes little at first.

    Attributes:
        floor: Epsilon, in [0, 1): a gate that closed altogether would leave nothing to find x by.
    """

    floor: float = 1e-3
    inverse_kind = "closed form"

    @property
    def n_parameters(self) -> int:
        return 2

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        value, kept, replaced = self._split(parameters)
        return kept * x + replaced * value, kept.log()

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        value, kept, replaced = self._split(parameters)
        return (z - replaced * value) / kept, -kept.log()

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""m, :math:`\sigma` and :math:`1 - \sigma`."""
        value, raw = parameters.unbind(1)
        return value, self.floor + (1 - self.floor) * (raw + 2).sigmoid(), (1 - self.floor) * (-raw - 2).sigmoid()


def iaf_layers(
    dim: int, n_context: int = 0, layers: int = 4, hidden: int = 320, depth: int = 1, activation: str = "silu"
) -> Chain:
    """``layers`` gated autoregressive transforms, with the order of the variables reversed between them.

    As a VAE's posterior: ``forward(z0, context=h)`` takes z_0 ~ N(mu(x), sigma(x)) and the encoder's h, ``(B,
    n_context)``, to z_T in ``layers`` passes, each parallel in the variables (Kingma et al. 2016, algorithm 1).

    Arguments:
        dim: D.
        n_context: Numbers of h.
        hidden, depth: Units and hidden layers of each MADE.
        activation: Of its hidden units, a name of ``models.nn.activation``.
    """
    gated = autoregressive_layers(
        dim, SigmoidGate(), layers=layers, hidden=hidden, depth=depth, n_context=n_context, activation=activation
    )
    return Chain(*with_reversals(gated, dim))
