"""A model of the user's own that knows nothing of this harness: an object with ``sample(n)`` or ``log_prob(x)``."""

import inspect
from typing import Any

import torch
from torch import Generator, Tensor, nn

from bench.chunks import CHUNK
from bench.data.formats.samples import as_samples
from bench.errors import UnavailableError, UserError
from bench.rng import seeded
from bench.schema import DataSpec
from bench.seeds import derive_seed
from bench.subjects.base import Origin, Report, Subject, silent
from bench.subjects.exact import check_exact

__all__ = ["OwnModel"]


class OwnModel(Subject):
    """An object that samples, or has a likelihood, in the data's own space.

    ``sample(n)`` returns ``(n, *shape)``; a keyword ``generator``, if it takes one, is given a ``torch.Generator`` on
    the model's device, and the global generators are seeded and restored around it. ``log_prob(x)`` returns the exact
    log-probabilities of the data's own values ``(N,)`` in nats; x are uint8 levels or float32 reals. Of graphs, its
    ``likelihood_of`` says which (``models.base.HasLikelihood``).

    Arguments:
        model: A ``torch.nn.Module`` is put in evaluation mode and called on the device of its first parameter.
        spec: Of the data.
        seed: Of the samples.

    Raises:
        UserError: The object has neither method.
    """

    def __init__(self, model: Any, spec: DataSpec, seed: int, origin: Origin) -> None:
        self._sample, self._log_prob = (getattr(model, name, None) for name in ("sample", "log_prob"))
        if not callable(self._sample) and not callable(self._log_prob):
            raise UserError(f"subject: a {type(model).__name__} has neither sample(n) nor log_prob(x); add one of them")
        self.spec = spec
        self.seed = seed
        self.origin = origin
        self.relation = "exact" if callable(self._log_prob) else ""
        self.likelihood_of = str(getattr(model, "likelihood_of", ""))
        self._device = torch.device("cpu")
        if isinstance(model, nn.Module):
            model.eval()
            self._device = next((parameter.device for parameter in model.parameters()), self._device)

    @torch.no_grad()
    def samples(self, n: int, report: Report = silent) -> Tensor:
        if not callable(self._sample):
            raise UnavailableError("the model cannot be sampled: it has no sample(n)")
        seed = derive_seed(self.seed, "evaluate", "samples")
        more = {"generator": Generator(self._device).manual_seed(seed)} if _takes_generator(self._sample) else {}
        dtype = torch.float32 if self.spec.levels is None else torch.uint8
        made = torch.empty(n, *self.spec.shape, dtype=dtype)
        done = 0
        with seeded(seed):
            for part in made.split(CHUNK):  # as ``Examples.samples`` expects: those of n are the first of more
                report("sampling", done, n)
                asked = max(2, len(part))  # fewer are refused as samples
                drawn = as_samples(_tensor(self._sample(asked, **more), "sample"), self.spec, "subject: sample(n)")
                if len(drawn) != asked:
                    raise ValueError(f"sample({asked}) returned {len(drawn)} samples")
                part.copy_(drawn[: len(part)])
                done += len(part)
        return made

    @torch.no_grad()
    def log_weights(self, x: Tensor, draws: int, report: Report = silent) -> Tensor:
        if not callable(self._log_prob):
            raise UnavailableError("the model has no likelihood: it has no log_prob(x)")
        log_p = self._log_probs(x, report)
        check_exact(x, log_p, self._log_probs, "log_prob")
        return log_p[None]

    def _log_probs(self, x: Tensor, report: Report = silent) -> Tensor:
        assert callable(self._log_prob)
        chunks: list[Tensor] = []
        with seeded(derive_seed(self.seed, "evaluate", "log_weight")):
            for part in x.split(CHUNK):
                report("likelihood", CHUNK * len(chunks), len(x))
                log_p = _tensor(self._log_prob(part.to(self._device)), "log_prob")
                if log_p.shape != (len(part),):
                    raise ValueError(f"log_prob returned shape {tuple(log_p.shape)} for {len(part)} examples; wanted "
                                     f"is one number an example, shape ({len(part)},)")  # fmt: skip
                chunks.append(log_p.double().cpu())
        return torch.cat(chunks)


def _takes_generator(method: Any) -> bool:
    try:
        return "generator" in inspect.signature(method).parameters
    except (TypeError, ValueError):  # of a function that is not Python's
        return False


def _tensor(made: Any, method: str) -> Tensor:
    if not isinstance(made, Tensor):
        raise TypeError(f"{method} returned a {type(made).__name__}; wanted is a torch.Tensor")
    return made
