"""The residual networks of GANs: the papers' sizes, counted by hand, and what is too small for them."""

from itertools import pairwise

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from models.nn.resnet_gan import DownBlock, UpBlock, discriminator_network, generator_network
from models.nn.sngan import spectrally_normalized


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def conv(n_in: int, n_out: int, k: int = 3) -> int:
    return n_in * n_out * k * k + n_out


def up(n_in: int, n_out: int) -> int:
    return 2 * n_in + conv(n_in, n_out) + 2 * n_out + conv(n_out, n_out) + conv(n_in, n_out, 1)


def down(n_in: int, n_out: int, *, halve: bool = True) -> int:
    shortcut = conv(n_in, n_out, 1) if halve or n_in != n_out else 0
    return conv(n_in, n_out) + conv(n_out, n_out) + shortcut


def test_sizes_for_cifar_are_those_of_miyato_and_others() -> None:
    generator = generator_network((3, 32, 32), 128, 128, bounded=True)
    assert count(generator) == 128 * 4096 + 4096 + 3 * up(256, 256) + 512 + conv(256, 3) == 4_276_739
    discriminator = discriminator_network((3, 32, 32), 128)
    blocks = down(3, 128) + down(128, 128) + 2 * down(128, 128, halve=False)
    assert count(discriminator) == blocks + 129 == 1_053_825


def test_sizes_for_64_are_those_of_gulrajani_and_others() -> None:
    sizes = [512, 512, 256, 128, 64]
    generator = generator_network((3, 64, 64), 128, 64, bounded=True)
    blocks = sum(up(before, after) for before, after in pairwise(sizes))
    assert count(generator) == 128 * 8192 + 8192 + blocks + 128 + conv(64, 3)
    discriminator = discriminator_network((3, 64, 64), 64)
    blocks = sum(down(before, after) for before, after in pairwise(sizes[::-1]))
    assert count(discriminator) == conv(3, 64) + blocks + 16 * 512 + 1


@pytest.mark.parametrize(
    ("shape", "smallest"),
    [
        ((3, 32, 32), (4, 4)),
        ((1, 28, 28), (7, 7)),
        ((3, 16, 24), (4, 6)),
        ((3, 64, 64), (4, 4)),
        ((2, 64, 128), (4, 8)),
    ],
)
def test_images_of_many_sizes(shape: tuple[int, int, int], smallest: tuple[int, int]) -> None:
    generator, discriminator = generator_network(shape, 5, 2, bounded=True), discriminator_network(shape, 2)
    z = torch.randn(3, 5, generator=Generator().manual_seed(0))
    x = generator(z)
    assert x.shape == (3, *shape)
    assert float(x.detach().abs().max()) <= 1
    assert [m.unflattened_size[1:] for m in generator if isinstance(m, nn.Unflatten)] == [smallest]
    outputs = discriminator(x)
    assert outputs.shape == (3,)
    outputs.sum().backward()
    for network in (generator, discriminator):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    *_, last = generator_network(shape, 5, 2, bounded=False)
    assert isinstance(last, nn.Conv2d)


def test_blocks_compute_what_the_papers_say() -> None:
    """Shortcuts in the papers' order: upsampling before the 1x1 convolution, and the convolution before the mean."""
    generator = Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    block = UpBlock(3, 4).double().eval()
    made = functional.conv2d(functional.interpolate(x, scale_factor=2), *_weights(block.shortcut[0]))
    made = made + block.residual(x)
    torch.testing.assert_close(block(x), made)
    torch.testing.assert_close(block.residual(x), _up_residual(block, x))
    down = DownBlock(3, 4).double()
    residual = functional.conv2d(functional.relu(x), *_weights(down.residual[1]), padding=1)
    residual = functional.conv2d(functional.relu(residual), *_weights(down.residual[3]), padding=1)
    shortcut = functional.conv2d(x, *_weights(down.shortcut[1]))
    torch.testing.assert_close(down(x), functional.avg_pool2d(residual + shortcut, 2))
    plain = DownBlock(3, 3, halve=False).double()
    torch.testing.assert_close(plain(x) - plain.residual(x), x)


def _weights(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    assert isinstance(module, nn.Conv2d)
    return module.weight, module.bias


def _up_residual(block: UpBlock, x: Tensor) -> Tensor:
    first, _, _, convolution, second, _, last = block.residual
    x = functional.interpolate(functional.relu(first(x)), scale_factor=2)
    x = functional.conv2d(x, *_weights(convolution), padding=1)
    return functional.conv2d(functional.relu(second(x)), *_weights(last), padding=1)


def test_the_discriminator_can_be_spectrally_normalized() -> None:
    network = spectrally_normalized(discriminator_network((1, 16, 16), 4))
    for _ in range(200):
        network(torch.zeros(1, 1, 16, 16))
    network.eval()
    weights = [m.weight.detach() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    largest = [float(torch.linalg.matrix_norm(weight.flatten(1), 2)) for weight in weights]
    assert len(largest) == 11
    assert largest == pytest.approx([1.0] * 11, abs=1e-3)


@pytest.mark.parametrize("shape", [(3, 12, 12), (3, 8, 32), (1, 18, 18), (2,), (784,)])
def test_what_is_no_image_or_too_small_is_refused_by_name(shape: tuple[int, ...]) -> None:
    for make in (lambda: generator_network(shape, 5, 2, bounded=True), lambda: discriminator_network(shape, 2)):
        with pytest.raises(ValueError, match=r"^shape \(.*at least 16 x 16"):
            make()
