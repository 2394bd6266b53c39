"""The nonlinearities of hidden units, by name."""

from torch import nn

__all__ = ["ACTIVATIONS", "activation_named"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "silu": nn.SiLU, "elu": nn.ELU, "gelu": nn.GELU, "tanh": nn.Tanh,
}  # fmt: skip


def activation_named(name: str) -> nn.Module:
    """The entrywise function of this name, one of ``ACTIVATIONS``.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r}: there are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
