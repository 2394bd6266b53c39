"""A trained model, and one whose training failed."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor, nn

from bench.checkpoint import Progress
from bench.chunks import CHUNK, draw_class_log_weights, draw_given, draw_log_weights, draw_outside, draw_samples
from bench.cuda_graphs import recorder_for
from bench.data.base import Data
from bench.errors import BrokenError, UnavailableError
from bench.memory import allocated, forget_peak, peak_memory
from bench.replays import Replays
from bench.schema import DataSpec
from bench.seeds import derive_seed
from bench.subjects.abilities import (
    NO_ODE,
    clipping,
    counted,
    decoding,
    of_classes,
    shown,
    with_classes,
    with_codes,
    with_decoder,
    with_inverse,
    with_posterior,
)
from bench.subjects.base import Decoder, Origin, Report, Subject, silent
from bench.subjects.exact import check_exact
from bench.subjects.trying import try_on
from models.base import (
    GenerativeModel,
    HasDiscriminator,
    HasLikelihood,
    ReportsCost,
    SamplesGiven,
    SolvesODE,
)

__all__ = ["FailedModel", "TrainedModel"]

MEBIBYTE = 1 << 20


class TrainedModel(Subject):
    """A model on its device, in evaluation mode.

    Arguments:
        model: With its weights.
        progress: At the end of its training, for the costs; None where that is not known.
        seed: The run's; samples, draws and counts come from streams derived from it.
        given: Examples ``(N, *shape)``; a model that draws one part of an example given the rest is given theirs.
        make: Makes a model with the same options for other data; None where that is not known.
        capture: Whether samples and draws of log-weights may be replayed from CUDA graphs.
    """

    def __init__(
        self,
        model: GenerativeModel,
        progress: Progress | None,
        seed: int,
        origin: Origin,
        given: Tensor | None = None,
        make: Callable[[DataSpec], GenerativeModel] | None = None,
        capture: bool = True,
    ) -> None:
        self.model = model.eval()
        self.given = given
        self.make = make
        self.progress = progress
        self.seed = seed
        self.origin = origin
        self.relation = model.relation if isinstance(model, HasLikelihood) else ""
        self.likelihood_of = model.likelihood_of if isinstance(model, HasLikelihood) else ""
        self.caveat = model.caveat if isinstance(model, HasLikelihood) else ""
        self.largest_component = model.largest_component
        self.solves_ode = isinstance(model, SolvesODE)
        self.cost_names = counted(model)
        if peak_memory(model.device) is not None:
            self.cost_names += ("peak_memory_training", "peak_memory_evaluation")
        self._replays = Replays(recorder_for(model.device) if capture else None)
        self._sampling: dict[int, tuple[float, float | None]] = {}  # samples/s and load, by the number of samples

    @property
    def shown_relation(self) -> str:
        return shown(self.model, self.relation)

    def samples(self, n: int, report: Report = silent) -> Tensor:
        model, generator = self.model, self._generator("samples")
        if not self._can_sample:
            raise UnavailableError(f"the model cannot be sampled: {model.cannot_sample}")

        def say(done: int) -> None:
            report("sampling", done, n)

        start, cpu = time.perf_counter(), time.process_time()
        if isinstance(model, SamplesGiven) and self.given is not None:
            drawn = draw_given(model, self.given, n, model.device, generator, say)
        else:
            drawn = draw_samples(model, n, generator, say, self._replays)
        seconds, cpu = max(time.perf_counter() - start, 1e-9), time.process_time() - cpu
        load = cpu / (seconds * torch.get_num_threads()) if self.model.device.type == "cpu" else None
        self._sampling[n] = n / seconds, load
        if len(drawn) < n:
            self.lost = f"{n - len(drawn)} of {n} samples are lost: they are NaN or too large for their numbers"
        return drawn

    @property
    def _can_sample(self) -> bool:
        return not self.model.cannot_sample or (isinstance(self.model, SamplesGiven) and self.given is not None)

    def class_samples(self, y: Tensor, report: Report = silent) -> Tensor:
        model, generator = of_classes(self.model), self._generator("class samples")
        made: list[Tensor] = []
        for part in self._chunks(y):
            report("sampling classes", CHUNK * len(made), len(y))
            made.append(model.sample_class(part, generator=generator).cpu())
        return torch.cat(made)

    def outside(self, n: int, report: Report = silent) -> Tensor:
        model = clipping(self.model)
        return draw_outside(model, n, self._generator("samples"), lambda done: report("mass outside", done, n))

    @torch.no_grad()
    def round_trips(self, x: Tensor, factor: float) -> Tensor:
        model, generator = with_inverse(self.model), self._generator("round trips")
        return torch.cat([model.round_trip(part, factor, generator=generator).cpu() for part in self._chunks(x)])

    def beyond_float32(self, n: int) -> tuple[Tensor, str]:
        model, generator = with_inverse(self.model), self._generator("samples")
        made = [model.beyond_float32(min(CHUNK, n - done), generator=generator) for done in range(0, n, CHUNK)]
        return torch.cat([beyond for beyond, _ in made]).cpu(), next((where for _, where in made if where), "")

    def log_weights(self, x: Tensor, draws: int, report: Report = silent) -> Tensor:
        model = self.model
        if not isinstance(model, HasLikelihood):
            raise UnavailableError("the model has no likelihood")
        generator, draws = self._generator("log_weight"), _enough(model, draws)
        rows: list[Tensor] = []
        for draw in range(draws):
            report("likelihood", draw, draws)
            rows.append(draw_log_weights(model, x, model.device, generator, self._replays))
        if model.relation == "exact" and not self.solves_ode:  # a solver has a certificate
            same = self._generator("log_weight")
            check_exact(x, rows[0], lambda part: draw_log_weights(model, part, model.device, same), "log_weight")
        return torch.stack(rows)

    def class_log_weights(self, x: Tensor, draws: int, report: Report = silent) -> Tensor:
        model = with_classes(self.model)
        assert isinstance(model, HasLikelihood)
        generator, draws = self._generator("class_log_weight"), _enough(model, draws)
        made: list[Tensor] = []
        for draw in range(draws):
            report("likelihood of classes", draw, draws)
            made.append(draw_class_log_weights(model, x, self.model.device, generator, self._replays))
        return torch.stack(made)

    def ode_changes(self, x: Tensor) -> Tensor:
        model = self.model
        if not isinstance(model, SolvesODE) or not isinstance(model, HasLikelihood):
            raise UnavailableError(NO_ODE)
        coarse = draw_log_weights(model, x, model.device, self._generator("certificate"))
        with model.halved():
            return draw_log_weights(model, x, model.device, self._generator("certificate")) - coarse

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        model, generator = with_codes(self.model), self._generator("codes")
        return torch.cat([model.encode(part, generator=generator).cpu() for part in self._chunks(x)])

    @torch.no_grad()
    def reconstructions(self, x: Tensor, report: Report = silent) -> Tensor:
        model, generator = decoding(self.model), self._generator("codes")
        made: list[Tensor] = []
        for part in self._chunks(x):
            report("reconstruction", CHUNK * len(made), len(x))
            made.append(model.decode(model.encode(part, generator=generator)).cpu())
        return torch.cat(made)

    @torch.no_grad()
    def elbo_terms(self, x: Tensor, draws: int, report: Report = silent) -> tuple[Tensor, Tensor, Tensor]:
        model, generator = with_posterior(self.model), self._generator("elbo")
        made: list[list[Tensor]] = []
        for draw in range(draws):
            report("ELBO", draw, draws)
            parts = [model.elbo_terms(part, generator=generator) for part in self._chunks(x)]
            made.append([torch.cat(term).cpu() for term in zip(*parts, strict=True)])
        reconstruction, kl, codes = (torch.stack(term) for term in zip(*made, strict=True))
        return reconstruction.double(), kl.double(), codes

    def scores(self) -> list[float]:
        if self.progress is None:
            raise UnavailableError("the end of its training is not known")
        return [score for _, score in self.progress.history]

    def latent_dim(self) -> int:
        return with_decoder(self.model).latent_dim

    def decoder(self) -> Decoder:
        model = with_decoder(self.model)
        if model.cannot_decode:
            raise UnavailableError(f"the model cannot decode: {model.cannot_decode}")
        return Decoder(model.latent_dim, lambda z: model.decoder_mean(z.to(self.model.device)).to(z.device))

    def try_on(self, data: Data) -> None:
        if self.make is None:
            super().try_on(data)
        else:
            try_on(self.make, data, derive_seed(self.seed, "evaluate", "trying"))

    def costs(self, x: Tensor, n: int) -> dict[str, float]:
        """A batch of up to 250 of ``x`` is counted. If ``n`` samples were not drawn before, they are now."""
        progress = self.progress
        costs = {"parameters": float(self.model.n_parameters)}
        if progress is not None:
            costs["train_seconds"] = progress.train_seconds
            if progress.train_seconds > 0:
                costs["train_examples_per_second"] = progress.examples_seen / progress.train_seconds
            if progress.best_seconds is not None:
                costs["seconds_to_best"] = progress.best_seconds
        if self._can_sample:
            if n not in self._sampling:  # samples of this number were cut from more, which went another way
                self.samples(n)
            costs["samples_per_second"], _ = self._sampling[n]
        if isinstance(self.model, HasDiscriminator):
            costs["discriminator_parameters"] = float(_trainable(self.model.discriminator))
        if isinstance(self.model, ReportsCost):
            batch = x[:CHUNK].to(self.model.device)
            with torch.no_grad():
                costs |= self.model.cost_report(batch, generator=self._generator("costs"))
        if progress is not None and progress.peak_memory is not None:
            costs["peak_memory_training"] = progress.peak_memory / MEBIBYTE
        peak = self._peak_of_evaluation(x[:CHUNK])
        if peak is not None:
            costs["peak_memory_evaluation"] = peak / MEBIBYTE
        return costs

    def _peak_of_evaluation(self, x: Tensor) -> int | None:
        """Bytes that a chunk of samples and of log-weights take, with the model; None where nothing counts them."""
        model, device = self.model, self.model.device
        if peak_memory(device) is None:
            return None
        # Networks of other metrics lie there, too, and what replays read and write.
        others = max(0, allocated(device) - sum(one.nbytes for one in (*model.parameters(), *model.buffers())))
        forget_peak(device)
        if not model.cannot_sample:
            draw_samples(model, CHUNK, self._generator("costs"))
        if isinstance(model, HasLikelihood):
            draw_log_weights(model, x, device, self._generator("costs"))
        peak = peak_memory(device)
        return None if peak is None else peak - others

    def loads(self, n: int) -> dict[str, float]:
        trained = None if self.progress is None else self.progress.load
        loads: dict[str, float | None] = dict.fromkeys(
            ("train_seconds", "seconds_to_best", "train_examples_per_second"), trained
        )
        _, loads["samples_per_second"] = self._sampling.get(n, (None, None))
        return {name: load for name, load in loads.items() if load is not None}

    def _chunks(self, x: Tensor) -> Iterator[Tensor]:
        return (part.to(self.model.device) for part in x.split(CHUNK))

    def _generator(self, use: str) -> Generator:
        generator = Generator(device=self.model.device)
        return generator.manual_seed(derive_seed(self.seed, "evaluate", use))


class FailedModel(Subject):
    """A model whose run ended before there was anything to measure.

    What such a model could not do anyway is unavailable; everything else raises BrokenError with the reason. So its
    rows are ``failed`` where a good run's have values, and ``skipped`` where those are.
    """

    def __init__(self, model: GenerativeModel, reason: str, origin: Origin) -> None:
        self.model, self.reason, self.origin = model, reason, origin
        self.relation = model.relation if isinstance(model, HasLikelihood) else ""
        self.likelihood_of = model.likelihood_of if isinstance(model, HasLikelihood) else ""
        self.solves_ode = isinstance(model, SolvesODE)
        self.cost_names = counted(model)

    @property
    def shown_relation(self) -> str:
        return shown(self.model, self.relation)

    def samples(self, n: int, report: Report = silent) -> Tensor:
        if self.model.cannot_sample and not isinstance(self.model, SamplesGiven):
            raise UnavailableError(f"the model cannot be sampled: {self.model.cannot_sample}")
        raise BrokenError(self.reason)

    def class_samples(self, y: Tensor, report: Report = silent) -> Tensor:
        of_classes(self.model)
        raise BrokenError(self.reason)

    def outside(self, n: int, report: Report = silent) -> Tensor:
        clipping(self.model)
        raise BrokenError(self.reason)

    def round_trips(self, x: Tensor, factor: float) -> Tensor:
        with_inverse(self.model)
        raise BrokenError(self.reason)

    def beyond_float32(self, n: int) -> tuple[Tensor, str]:
        with_inverse(self.model)
        raise BrokenError(self.reason)

    def log_weights(self, x: Tensor, draws: int, report: Report = silent) -> Tensor:
        if not isinstance(self.model, HasLikelihood):
            raise UnavailableError("the model has no likelihood")
        raise BrokenError(self.reason)

    def class_log_weights(self, x: Tensor, draws: int, report: Report = silent) -> Tensor:
        with_classes(self.model)
        raise BrokenError(self.reason)

    def ode_changes(self, x: Tensor) -> Tensor:
        if not isinstance(self.model, SolvesODE):
            raise UnavailableError(NO_ODE)
        raise BrokenError(self.reason)

    def codes(self, x: Tensor) -> Tensor:
        with_codes(self.model)
        raise BrokenError(self.reason)

    def reconstructions(self, x: Tensor, report: Report = silent) -> Tensor:
        decoding(self.model)
        raise BrokenError(self.reason)

    def elbo_terms(self, x: Tensor, draws: int, report: Report = silent) -> tuple[Tensor, Tensor, Tensor]:
        with_posterior(self.model)
        raise BrokenError(self.reason)

    def scores(self) -> list[float]:
        raise BrokenError(self.reason)

    def latent_dim(self) -> int:
        return with_decoder(self.model).latent_dim

    def decoder(self) -> Decoder:
        with_decoder(self.model)
        raise BrokenError(self.reason)

    def try_on(self, data: Data) -> None:
        raise BrokenError(self.reason)

    def costs(self, x: Tensor, n: int) -> dict[str, float]:
        raise BrokenError(self.reason)


def _trainable(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _enough(model: HasLikelihood, draws: int) -> int:
    """How many draws of log w are taken of those asked for."""
    return 1 if model.relation == "exact" else min(draws, model.enough_draws or draws)
