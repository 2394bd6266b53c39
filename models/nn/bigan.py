"""The encoder and the joint discriminator of bidirectional GANs, for images of any size and for vectors.

Both read an example with the body of DCGAN's discriminator (``models.nn.dcgan``), its last layer left out.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .dcgan import checked, dense, discriminator_network, pyramid

__all__ = ["JointDiscriminator", "encoder_network"]


def encoder_network(shape: Iterable[int], n_out: int, width: int) -> nn.Sequential:
    """Examples ``(B, *shape)`` to ``(B, n_out)`` numbers without bounds.

    Arguments:
        shape: ``(C, H, W)`` or ``(D,)``.
        n_out: The code's dimension, or twice that for a mean and a log-scale.
        width: As in ``models.nn.dcgan``.

    Raises:
        ValueError: If a size is below 1, or shape has another length than 1 or 3.
    """
    shape = checked(shape, n_out, width)
    body, features = body_network(shape, width)
    return nn.Sequential(*body, nn.Linear(features, n_out))


class JointDiscriminator(nn.Module):
    """Pairs of an example ``(B, *shape)`` and a code ``(B, Z)`` to one logit each, ``(B,)``.

    Images pass through convolutions and codes through two hidden layers of ``8 * width`` units, and a hidden layer of
    as many reads both. A vector is joined to its code at once and passes through three hidden layers of ``4 * width``
    units.

    Arguments:
        shape: ``(C, H, W)`` or ``(D,)``.
        latent_dim: Z.
        width: As in ``models.nn.dcgan``.

    Raises:
        ValueError: If a size is below 1, or shape has another length than 1 or 3.
    """

    def __init__(self, shape: Iterable[int], latent_dim: int, width: int) -> None:
        super().__init__()
        shape = checked(shape, latent_dim, width)
        rectifier = nn.LeakyReLU(0.2)
        if pyramid(shape, width):
            hidden = 8 * width
            self.of_example, features = body_network(shape, width)
            self.of_code = nn.Sequential(*dense([latent_dim, hidden, hidden], rectifier), rectifier)
            self.of_both = nn.Sequential(*dense([features + hidden, hidden, 1], rectifier))
        else:
            self.of_example, self.of_code = nn.Sequential(nn.Flatten()), nn.Sequential()
            self.of_both = nn.Sequential(*dense([math.prod(shape) + latent_dim, *[4 * width] * 3, 1], rectifier))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        logits: Tensor = self.of_both(torch.cat([self.of_example(x), self.of_code(z)], 1)).flatten()
        return logits


def body_network(shape: tuple[int, ...], width: int) -> tuple[nn.Sequential, int]:
    """DCGAN's discriminator without its last layer, ``(B, *shape)`` to ``(B, F)``, and F."""
    *body, last, _ = discriminator_network(shape, width)  # a linear layer with one output ends it, and its flattening
    assert isinstance(last, nn.Linear)
    return nn.Sequential(*body), last.in_features
