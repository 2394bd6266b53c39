"""Multi-layer perceptron."""

from itertools import pairwise

from torch import Tensor, nn

__all__ = ["MLP"]


class MLP(nn.Module):
    """Fully connected layers with SiLU in between: ``(B, n_in) -> (B, n_out)``.

    A smooth function, and so are densities made of it.

    Arguments:
        n_in, n_out: Numbers of inputs and outputs.
        hidden: Units of each hidden layer.
        depth: Number of hidden layers; 0 is a linear map.
        zero_last: Start the last layer at zero, as conditioners of flows want it.
    """

    def __init__(self, n_in: int, n_out: int, *, hidden: int, depth: int, zero_last: bool = False) -> None:
        super().__init__()
        widths = [n_in, *[hidden] * depth]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.SiLU()]
        last = nn.Linear(widths[-1], n_out)
        if zero_last:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
