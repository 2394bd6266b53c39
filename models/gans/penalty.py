"""The gradient penalty of Wasserstein GANs."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gradient_penalty"]


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    r"""How far the critic's slope is from 1 between real and generated examples; one number.

    .. math:: E\big[(\|\nabla_{\hat x} f(\hat x)\|_2 - 1)^2\big], \qquad
        \hat x = \epsilon\, x + (1 - \epsilon)\, G(z), \quad \epsilon \sim U[0, 1]

    The norm is over all entries of an example together. The result can be differentiated by the critic's parameters.

    It is computed without autocast, in the precision of ``real`` (float32 at least for the norm): in half precision
    squares of gradients over- and underflow. The critic must not normalize over the batch, because its slope at one
    example would then depend on the others (Gulrajani et al. 2017, section 4).

    Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville 2017, Improved training of Wasserstein GANs, arXiv:1704.00028.

    Arguments:
        critic: f, ``(B, *shape)`` to ``(B,)``, each example on its own; not compiled, which differentiates only once.
        real, fake: ``(B, *shape)``.
        mix: :math:`\epsilon`, ``(B,)``.
    """
    with torch.autocast(real.device.type, enabled=False):
        weight = mix.view(-1, *[1] * (real.dim() - 1))
        between = (weight * real + (1 - weight) * fake.to(real.dtype)).detach().requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        slope = slope.flatten(1).to(torch.promote_types(slope.dtype, torch.float32))
        return (slope.norm(dim=1) - 1).square().mean()
