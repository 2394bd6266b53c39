"""The probes included in genbench. What each shows, and how to read it, is in docs/diagnostics.md."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from bench.checkpoint import Progress
from bench.chunks import CHUNK, draw_samples
from bench.data.base import ClassifiedModes, Data, Modes
from bench.features.classifier import InDomainClassifier
from bench.metrics.collapse import collapse_of
from bench.probe import Panel, Probe
from models.base import Autoencodes, Batch, GenerativeModel, HasDiscriminator

__all__ = [
    "ActiveUnits",
    "ClippedWeights",
    "Collapse",
    "Discriminator",
    "GeneratorGradient",
    "GradientNorm",
    "ModesOverTime",
]

Note = Callable[[str], None]


class GradientNorm(Probe):
    r"""``gradient_norm``: the largest Euclidean norm of the gradient since the last validation.

    .. math:: \max_t \sqrt{\textstyle\sum_\theta \|\nabla_\theta L_t\|^2}

    It is the gradient that the step used, after clipping if clipping is on. For a model with several optimizers, every
    parameter contributes its latest gradient.
    """

    title = "Gradient norm"

    def __init__(self) -> None:
        self._largest: Tensor | None = None

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, Tensor]) -> None:
        norm = norm_of([parameter.grad for parameter in model.parameters()])
        if norm is not None:
            # Kept on the device, because reading the value would wait for the step.
            self._largest = norm if self._largest is None else torch.maximum(self._largest, norm)

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        largest, self._largest = self._largest, None
        return {} if largest is None else {"gradient_norm": float(largest)}

    def panels(self) -> Sequence[Panel]:
        return [Panel("largest norm since\nthe last validation [loss unit]", {"gradient_norm": ""}, log=True)]


class GeneratorGradient(Probe):
    r"""``generator_gradient_mean`` and ``_largest``: the norm of the gradient that reaches the generator.

    .. math:: \sqrt{\textstyle\sum_{\theta \in G} \|\nabla_\theta L_t\|^2}

    over the steps t since the last validation, after clipping if clipping is on. A step that trains the discriminator
    alone counts with the generator's latest gradient.
    """

    title = "Gradient reaching the generator"

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._largest: Tensor | None = None
        self._steps = 0

    def begin(self, model: GenerativeModel, data: Data, note: Note) -> str:
        return "" if isinstance(model, HasDiscriminator) else "the model has no generator trained against a network"

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, Tensor]) -> None:
        assert isinstance(model, HasDiscriminator)
        norm = norm_of([parameter.grad for parameter in model.generator.parameters()])
        if norm is not None:
            self._sum = norm if self._sum is None else self._sum + norm
            self._largest = norm if self._largest is None else torch.maximum(self._largest, norm)
            self._steps += 1

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        total, largest, steps = self._sum, self._largest, self._steps
        self._sum, self._largest, self._steps = None, None, 0
        if total is None or largest is None:
            return {}
        return {"generator_gradient_mean": float(total) / steps, "generator_gradient_largest": float(largest)}

    def panels(self) -> Sequence[Panel]:
        curves = {"generator_gradient_mean": "mean", "generator_gradient_largest": "largest"}
        return [Panel("norm since the\nlast validation [loss unit]", curves, log=True)]


class Discriminator(Probe):
    r"""How well the discriminator or critic f tells data from generated examples, and by how much.

    ``discriminator_accuracy`` is the share of pairs of a real and a generated example in which the real one has the
    larger output, :math:`P(f(x) > f(G(z))) + P(f(x) = f(G(z))) / 2`: ½ is chance. Unlike the share on the right side of
    0, it means the same for logits and for a critic, whose outputs have no zero. ``discriminator_gap`` is
    :math:`E[f(x)] - E[f(G(z))]`, in units of the output: for a critic its estimate of the distance, up to its Lipschitz
    constant. Both are of validation examples; ``..._train`` are of as many training examples, and larger where the
    discriminator knows them by heart. ``discriminator_loss_mean`` and ``generator_loss_mean`` are the losses of
    training, averaged since the last validation.

    Outputs are taken in training mode, as the generator's step sees them: batch normalization uses the statistics of
    the real and of the generated examples apart.

    Arguments:
        n_samples: Number of real and of generated examples.
    """

    title = "Discriminator"

    def __init__(self, n_samples: int = 500) -> None:
        self.n_samples = n_samples
        self._batches: dict[str, Batch] = {}
        self._losses: dict[str, Tensor] = {}
        self._steps = 0

    def begin(self, model: GenerativeModel, data: Data, note: Note) -> str:
        if not isinstance(model, HasDiscriminator):
            return "the model has no discriminator or critic"
        n = min(self.n_samples, len(data.val), len(data.train))
        for name, split in (("", data.val), ("_train", data.train)):
            self._batches[name] = (split.x[:n], None if split.y is None else split.y[:n])
        return ""

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, Tensor]) -> None:
        for name in ("discriminator_loss", "generator_loss"):
            if name in outputs:
                loss = outputs[name].detach()
                self._losses[name] = self._losses[name] + loss if name in self._losses else loss
        self._steps += 1

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        assert isinstance(model, HasDiscriminator)
        numbers = {f"{name}_mean": float(total) / self._steps for name, total in self._losses.items()}
        self._losses, self._steps = {}, 0
        model.train()
        for name, (x, y) in self._batches.items():
            batch = (x.to(model.device), None if y is None else y.to(model.device))
            on_real, on_fake = model.verdicts(batch, generator=fresh(model))
            numbers[f"discriminator_accuracy{name}"] = accuracy(on_real, on_fake)
            numbers[f"discriminator_gap{name}"] = float(on_real.mean() - on_fake.mean())
        return numbers

    def panels(self) -> Sequence[Panel]:
        splits = {"": "validation", "_train": "training"}
        return [
            Panel(
                "accuracy, real against\ngenerated [share]",
                {f"discriminator_accuracy{one}": f"{called} examples" for one, called in splits.items()},
                lines={"chance": 0.5}, low=-0.02, high=1.02,
            ),
            Panel(
                "mean output on real minus\non generated [output unit]",
                {f"discriminator_gap{one}": f"{called} examples" for one, called in splits.items()},
                lines={"none": 0.0},
            ),
            Panel(
                "loss in training\n[nats or critic's unit]",
                {"discriminator_loss_mean": "discriminator", "generator_loss_mean": "generator"},
            ),
        ]  # fmt: skip


class ClippedWeights(Probe):
    """``clipped_weights``: the share of a critic's weights that clipping has put at one of its two bounds.

    ``..._lowest`` and ``..._highest`` are those of the parameter tensors with the smallest and the largest share.
    """

    title = "Critic weights at the clipping bound"

    def begin(self, model: GenerativeModel, data: Data, note: Note) -> str:
        clips = isinstance(model, HasDiscriminator) and model.clip is not None
        return "" if clips else "the model clips no weights"

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        assert isinstance(model, HasDiscriminator)
        assert model.clip is not None
        parameters = list(model.discriminator.parameters())
        clip = torch.tensor(model.clip, dtype=parameters[0].dtype).item()  # as it was rounded in the clamp
        at_bound = [int((parameter.abs() >= clip).sum()) for parameter in parameters]
        shares = [n / parameter.numel() for n, parameter in zip(at_bound, parameters, strict=True)]
        whole = sum(at_bound) / sum(parameter.numel() for parameter in parameters)
        return {
            "clipped_weights": whole,
            "clipped_weights_lowest": min(shares),
            "clipped_weights_highest": max(shares),
        }

    def panels(self) -> Sequence[Panel]:
        curves = {
            "clipped_weights": "all", "clipped_weights_highest": "most clipped tensor",
            "clipped_weights_lowest": "least clipped tensor",
        }  # fmt: skip
        return [Panel("weights at the bound [share]", curves, low=-0.02, high=1.02)]


class ModesOverTime(Probe):
    """``modes_hit``, the number of the data's modes that samples hit, and ``modes_quality``, the share in a mode.

    As the metric ``modes`` counts them, on the same noise at every validation. Where a classifier assigns the modes,
    every sample belongs to one, and there is no ``modes_quality``.

    Arguments:
        n_samples: Number of samples. It bounds the number of modes that can be hit.
    """

    title = "Modes"

    def __init__(self, n_samples: int = 1000) -> None:
        self.n_samples = n_samples
        self._modes: Modes | None = None
        self._classified = False

    def begin(self, model: GenerativeModel, data: Data, note: Note) -> str:
        if data.modes is None:
            return f"the modes of {data.spec.name} are not known"
        if model.cannot_sample:
            return f"the model cannot be sampled: {model.cannot_sample}"
        if isinstance(data.modes, ClassifiedModes):
            labelled, recipe = data.modes.labelled, InDomainClassifier()
            if lack := recipe.lacks(labelled):
                return lack
            self._classified = True
            self._modes = data.modes.read(recipe.extractor(labelled, note).classes)
        else:
            self._modes = data.modes
        return ""

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        assert self._modes is not None
        mode = self._modes.assign(draw_samples(model, self.n_samples, fresh(model)))  # (N,)
        numbers = {"modes_hit": float(len(mode[mode >= 0].unique()))}
        return numbers if self._classified else {**numbers, "modes_quality": float((mode >= 0).double().mean())}

    def panels(self) -> Sequence[Panel]:
        assert self._modes is not None
        n = self._modes.n
        hit = Panel(
            f"modes hit by\n{self.n_samples} samples [count]", {"modes_hit": ""}, lines={f"all {n}": n}, low=0.0,
            high=1.05 * n,
        )  # fmt: skip
        return [hit] if self._classified else [
            hit, Panel("samples in a mode [share]", {"modes_quality": ""}, low=-0.02, high=1.02)
        ]  # fmt: skip


class ActiveUnits(Probe):
    r"""``active_units``: how many units of the code say anything about the example. 0 is posterior collapse.

    Unit u is active if the mean of its posterior varies between examples, :math:`\mathrm{Var}_x(E_{q(u|x)}[u]) > 0.01`
    (Burda, Grosse, Salakhutdinov 2016: Importance weighted autoencoders, arXiv:1509.00519, section 5.2). The mean is
    what the model's ``encode`` gives. ``code_variance_smallest``, ``_median`` and ``_largest`` are of these variances.

    Arguments:
        n_samples: Number of validation examples.
    """

    title = "Active units"
    threshold = 0.01

    def __init__(self, n_samples: int = 1000) -> None:
        self.n_samples = n_samples
        self._x = torch.empty(0)
        self._units = 0

    def begin(self, model: GenerativeModel, data: Data, note: Note) -> str:
        if not isinstance(model, Autoencodes):
            return "the model has no codes"
        if model.family == "flow":
            return "the code of a flow is a bijection of the example, all of it says something"
        self._x = data.val.x[: self.n_samples]
        return ""

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        assert isinstance(model, Autoencodes)
        generator = fresh(model)
        parts = [model.encode(part.to(model.device), generator=generator) for part in self._x.split(CHUNK)]
        variance = torch.cat(parts).double().var(0)  # (Z,)
        self._units = len(variance)
        return {
            "active_units": float((variance > self.threshold).sum()),
            "code_variance_smallest": float(variance.min()),
            "code_variance_median": float(variance.median()),
            "code_variance_largest": float(variance.max()),
        }

    def panels(self) -> Sequence[Panel]:
        variances = {f"code_variance_{one}": f"{one} unit" for one in ("largest", "median", "smallest")}
        return [
            Panel(
                "active units [count]", {"active_units": ""}, lines={f"all {self._units}": self._units}, low=0.0,
                high=1.05 * self._units,
            ),
            Panel("variance of the\nposterior mean", variances, lines={"active above": self.threshold}, log=True),
        ]  # fmt: skip


class Collapse(Probe):
    """``collapse``: whether training has collapsed by now, 0 or 1, and the validation scores that say so.

    As the metric ``collapse`` decides it (``bench.metrics.collapse``) from the scores up to this validation.
    """

    title = "Collapse"

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        if score is None:
            return {}
        numbers = {"collapse_score": score}
        found = collapse_of([value for _, value in progress.history])
        if found is not None:
            numbers |= {
                "collapse": float(found.collapsed), "collapse_best": found.best,
                "collapse_above": found.best + found.tolerance,
            }  # fmt: skip
        return numbers

    def panels(self) -> Sequence[Panel]:
        curves = {
            "collapse_score": "score", "collapse_best": "best so far", "collapse_above": "collapsed above this",
        }  # fmt: skip
        return [
            Panel("validation score\n[lower is better]", curves),
            Panel("collapsed [0 or 1]", {"collapse": ""}, low=-0.05, high=1.05),
        ]


def norm_of(gradients: Sequence[Tensor | None]) -> Tensor | None:
    """The Euclidean norm of all gradients together, on their device; None where there are none."""
    norms = [torch.linalg.vector_norm(gradient.detach()) for gradient in gradients if gradient is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else None


def accuracy(on_real: Tensor, on_fake: Tensor) -> float:
    r"""The share of pairs in which the real example has the larger output; a tie counts half. Any two lengths.

    >>> accuracy(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0]))
    0.875
    """
    real, fake = on_real.double().cpu(), on_fake.double().cpu().sort().values
    below, up_to = torch.searchsorted(fake, real), torch.searchsorted(fake, real, right=True)
    return float((below + up_to).double().mean() / (2 * len(fake)))


def fresh(model: GenerativeModel) -> Generator:
    """A generator on the model's device that gives the same numbers at every validation."""
    return Generator(device=model.device).manual_seed(0)
