"""What every bijection is held to, in float64: its log-det against autograd, and its inverse."""

import torch
from helpers_density import randomize
from hypothesis import settings
from torch import Generator, Tensor
from torch.autograd.functional import jacobian

from models.transforms.base import Transform

__all__ = ["check_bijection", "check_log_det", "few", "normal", "prepared", "uniform"]

few = settings(max_examples=12, deadline=None, derandomize=True)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def prepared(transform: Transform, std: float = 0.5, seed: int = 0) -> Transform:
    """The transform itself, with random parameters and in float64."""
    randomize(transform, std, seed)
    return transform.double()


def check_log_det(transform: Transform, x: Tensor, *, context: Tensor | None = None, tolerance: float = 1e-9) -> Tensor:
    """(a) log-det against autograd, shapes and dtypes. Returns z."""
    z, log_det = transform(x, context=context)
    assert z.shape == (len(x), *transform.output_shape(x.shape[1:]))
    assert log_det.shape == (len(x),)
    assert z.dtype == log_det.dtype == torch.float64
    for i in range(len(x)):
        given = None if context is None else context[i : i + 1]
        matrix = jacobian(lambda e, c=given: transform(e[None], context=c)[0].flatten(), x[i])
        expected = torch.linalg.slogdet(matrix.reshape(z[0].numel(), -1)).logabsdet
        torch.testing.assert_close(log_det[i], expected, rtol=tolerance, atol=tolerance)
    assert transform.relation == "exact"
    return z


def check_bijection(
    transform: Transform,
    x: Tensor,
    *,
    context: Tensor | None = None,
    log_det_tolerance: float = 1e-9,
    inverse_tolerance: float | None = None,
) -> None:
    """(a) log-det against autograd, (b) round trips both ways, (c) forward + inverse log-det = 0, shapes, relation.

    Arguments:
        inverse_tolerance: None for an inverse in closed form, which is then held to rounding; for an iterative inverse
            the error it states, which both round trips and its log-det must keep (absolute, or relative above 1).
    """
    assert transform.inverse_kind == ("closed form" if inverse_tolerance is None else "iterative")
    z = check_log_det(transform, x, context=context, tolerance=log_det_tolerance)
    tolerance = 1e-9 if inverse_tolerance is None else inverse_tolerance
    with torch.no_grad():
        log_det = transform(x, context=context)[1]
        back, inverse_log_det = transform.inverse(z, context=context)
        torch.testing.assert_close(back, x, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(inverse_log_det, -log_det, rtol=tolerance, atol=tolerance)
        target = normal(*z.shape, seed=1)
        again, _ = transform(transform.inverse(target, context=context)[0], context=context)
        tolerance = 1e-7 if inverse_tolerance is None else inverse_tolerance
        torch.testing.assert_close(again, target, rtol=tolerance, atol=tolerance)
