"""Convolutional networks of flows keep the channels of a pixel side by side on a CPU, and give the same numbers."""

from types import ModuleType

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.autograd import forward_ad

from bench.training.fit import _quiet_lightning
from models.nn import convnet, resnet
from models.nn.convnet import ConvNet
from models.nn.layout import channels_last_on_cpu
from models.nn.resnet import ResNet

CASES = [pytest.param(ResNet, resnet, 3, id="ResNet"), pytest.param(ResNet, resnet, 1, id="ResNet, one channel"),
         pytest.param(ConvNet, convnet, 3, id="ConvNet")]  # fmt: skip


def made(kind: type[nn.Module], n_in: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    network = kind(n_in, 4, channels=8, blocks=2) if kind is ResNet else kind(n_in, 4, channels=8)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.double(), torch.randn(5, n_in, 7, 6, dtype=torch.float64, requires_grad=True)


def numbers(network: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of a function of it with regard to input and parameters."""
    y = network(x)
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum()
    return [y, *torch.autograd.grad(loss, [x, *network.parameters()])]


@pytest.mark.parametrize(("kind", "module", "n_in"), CASES)
def test_the_layout_changes_no_number(
    kind: type[nn.Module], module: ModuleType, n_in: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x = made(kind, n_in)
    found = numbers(network, x)
    monkeypatch.setattr(module, "channels_last_on_cpu", lambda x: x)
    torch.testing.assert_close(found, numbers(network, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kind", "module", "n_in"), CASES)
def test_convolutions_of_several_channels_see_channels_last(
    kind: type[nn.Module], module: ModuleType, n_in: int
) -> None:
    network, x = made(kind, n_in)
    seen = []
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(
                lambda layer, given, y: seen.append(y.is_contiguous(memory_format=torch.channels_last))
            )
    network(x)
    assert len(seen) > 1
    assert all(seen)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own use of it
@pytest.mark.parametrize(("kind", "module", "n_in"), CASES)
def test_transforms_of_functions_give_the_jacobian(kind: type[nn.Module], module: ModuleType, n_in: int) -> None:
    network, given = made(kind, n_in)
    network(given)  # layers set themselves from the first batch
    x = given.detach()[:2, :, :3, :2].contiguous()

    def one(x: Tensor) -> Tensor:
        y: Tensor = network(x[None])[0]
        return y

    expected = torch.stack([torch.autograd.functional.jacobian(one, example) for example in x])
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(torch.func.vmap(transform(one))(x), expected)
    with forward_ad.dual_level():
        moved = forward_ad.unpack_dual(network(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    torch.testing.assert_close(moved, expected.sum((-3, -2, -1)))


def test_training_in_several_processes_is_silent_about_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    network = made(ConvNet, 3)[0].float()
    x = torch.randn(32, 3, 16, 16)  # of smaller ones torch computes the gradients in another way
    torch.set_warn_always(True)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(network)
        with _quiet_lightning():
            parallel(x).sum().backward()
        network.zero_grad()
        with pytest.warns(UserWarning, match="Grad strides do not match"):  # unless it is silenced
            parallel(x).sum().backward()
    finally:
        distributed.destroy_process_group()
        torch.set_warn_always(False)


def test_other_devices_keep_their_layout() -> None:
    x = torch.empty(2, 3, 4, 4, device="meta")
    assert channels_last_on_cpu(x) is x
