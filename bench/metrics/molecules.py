"""Molecules: how many samples are valid, different and new, and how much they look like the test molecules.

All shares of samples are of *all* samples drawn, refused ones included, so none is raised by leaving samples out.
Nothing is corrected, drawn again or cut to its largest component. Equal molecules are those of one canonical graph,
without stereochemistry: by strings, copies of the training set would be new.
"""

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from bench.data.formats.smiles import Judged, judged
from bench.errors import UnavailableError
from bench.metrics.base import Metric
from bench.metrics.intervals import measured, wilson_interval
from bench.metrics.molecule_pictures import molecule_grid
from bench.metrics.molecule_rules import about_molecules, novel
from bench.metrics.molecule_sets import (
    cosine,
    fingerprints,
    fragments,
    internal_diversity,
    nearest_similarity,
    scaffolds,
)  # fmt: skip
from bench.metrics.support_size import different_error
from bench.schema import Estimate, MetricInfo, Source, Status
from bench.subjects.examples import Examples

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Molecules"]

FEWEST = 50
"""Valid samples of which it is said that they repeat each other or the training split."""


class Molecules(Metric):
    """Computes shares of samples and similarities to test molecules, for data that are molecules.

    - ``validity``: the share of samples that are molecules of the data: they parse, keep all valences, are connected,
      of known atoms, charges and size. ``refused`` is the rest, and its note counts it by reasons.
    - ``uniqueness``: different molecules among the valid ones; ``novelty``: those of the different ones that are not in
      the training split.
    - ``valid_unique_novel``: different new molecules among all samples. Real molecules have less than 1, and training
      molecules with one carbon more have nearly 1: read it beside the controls.
    - ``internal_diversity``, ``nearest_similarity`` (SNN), ``fragment_similarity`` and ``scaffold_similarity`` as in
      ``bench.metrics.molecule_sets``, of the valid samples, with repetitions.
    - ``molecule_reconstruction``: the share of test molecules that are the same graph after encoding and decoding.

    The errors of ``uniqueness``, ``novelty`` and ``valid_unique_novel`` are those of numbers of different molecules: a
    binomial one would be far too large for a model that draws few molecules often.

    Arguments:
        n_samples: Number of the subject's samples.
        n_real: Test molecules that are compared with, at most half of the test split.
    """

    has_controls: ClassVar[bool] = True

    def __init__(self, n_samples: int, n_real: int) -> None:
        self.n_samples = n_samples
        self.n_real = n_real

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return tuple(
            MetricInfo(name, "", higher_is_better, self.version, title, rank)
            for name, higher_is_better, title, rank in (
                ("validity", True, "validity", 30),
                ("refused", None, "refused", 300),
                ("uniqueness", None, "uniqueness", 300),
                ("novelty", None, "novelty", 300),
                ("valid_unique_novel", True, "V·U·N", 31),
                ("internal_diversity", None, "internal diversity", 300),
                ("nearest_similarity", None, "SNN", 300),
                ("fragment_similarity", True, "fragments", 33),
                ("scaffold_similarity", True, "scaffolds", 34),
                ("molecule_reconstruction", None, "reconstruction", 301),
            )
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        facts = examples.chemistry
        about = about_molecules(examples)
        made = examples.molecules(self.n_samples)
        n, valid = made.n, len(made.molecules)
        if n == 0:
            raise UnavailableError("there are no samples")
        times = Counter(made.smiles)
        counts = torch.tensor(list(times.values()), dtype=torch.long)  # of each different molecule
        is_new = torch.tensor([novel({smiles}, examples) for smiles in times], dtype=torch.double)
        different, new = len(times), int(is_new.sum().item())
        novelty = new / max(different, 1)
        real = examples.real_molecules(self.n_real)
        infos = self.infos(examples)
        drawn = {"n_fake": n, **about}
        is_control = examples.subject.origin.model_family == "molecule control"  # whose line says what it is
        cheap = "" if is_control else _cheap(valid, different, new)
        estimates = [
            _share(infos[0], valid, n, reason=cheap, **drawn),
            _share(infos[1], n - valid, n, reason=_conditions(made, examples), **drawn),
            _share(infos[2], different, valid, different_error(counts, valid), **drawn),
            _share(infos[3], new, different, different_error(counts, valid, is_new - novelty), **drawn),
            _share(infos[4], new, n, different_error(counts, n, is_new), **drawn),
        ]
        compared = {"n_real": len(real.molecules), **drawn}
        if valid == 0 or not real.molecules:
            estimates += [
                _none(info, "no sample is valid" if valid == 0 else "no test molecule") for info in infos[5:9]
            ]
        else:
            bits = fingerprints(made.molecules)
            near = nearest_similarity(bits, fingerprints(real.molecules))
            error = near.std().item() / math.sqrt(valid) if valid > 1 else None
            estimates += [
                measured(infos[5], internal_diversity(bits), **drawn),
                measured(infos[6], near.mean().item(), draws=error, within=(0.0, 1.0), **compared),
            ]
            for info, count, what in ((infos[7], fragments, "fragments"), (infos[8], scaffolds, "scaffolds")):
                try:
                    value = cosine(count(made.molecules), count(real.molecules), what)
                    estimates.append(measured(info, value, reason=cheap, **compared))
                except UnavailableError as lack:
                    estimates.append(_none(info, str(lack)))
        return [*estimates, self._reconstruction(infos[9], examples, facts.chemistry, about)]

    def _reconstruction(self, info: MetricInfo, examples: Examples, chemistry: Any, about: dict[str, Any]) -> Estimate:
        """Of the first test molecules, as many as are compared with."""
        try:
            x = examples.real[: self.n_real]
            again = examples.subject.reconstructions(x, examples.report)
        except UnavailableError as lack:
            return _none(info, str(lack))
        before = judged(x.numpy(), chemistry)
        same = 0
        for smiles, vector in zip(before.smiles, again.numpy(), strict=True):
            same += judged([vector], chemistry).smiles == [smiles]
        return _share(info, same, len(x), of_test=True, n_real=len(x), **about)

    def picture(self, examples: Examples) -> "tuple[str, Image.Image] | None":
        """Four rows of samples, refused ones with the reason in their place, above two rows of test molecules."""
        made, real = examples.molecules(self.n_samples), examples.real_molecules(self.n_real)
        return "molecules", molecule_grid(made, real)


def _cheap(valid: int, different: int, new: int) -> str:
    """Why valid molecules say little of a model: one of them again and again, or the training split; else nothing."""
    if valid < FEWEST:
        return ""
    if different < valid / 2:
        return f"{100 * (1 - different / valid):.0f} % of the valid samples repeat another one"
    if new < different / 10:
        return f"{100 * (1 - new / different):.0f} % of the different molecules are training molecules"
    return ""


def _counted(made: Judged) -> str:
    """Return how many samples are refused for which reason, most first; empty where none is."""
    return ", ".join(f"{count} {reason}" for reason, count in made.refused.most_common())


def _conditions(made: Judged, examples: Examples) -> str:
    """What a reader must know of how the samples were had, and why some are refused."""
    cut = examples.subject.largest_component
    if examples.subject.origin.source is not Source.EXTERNAL_SAMPLES:
        how = "temperature 1, no correction, no resampling, no minimum size"
        said = f"{how}, {'the largest component of each' if cut else 'no largest component'}"
    elif cut:
        said = "temperature, correction, resampling and minimum size unknown, the largest component of each"
    else:
        said = "temperature, correction, resampling, minimum size and largest component unknown"
    refused = _counted(made)
    return said + (f": {refused}" if refused else "")


def _share(
    info: MetricInfo, part: int, whole: int, error: float | None = None, *, of_test: bool = False, **about: Any
) -> Estimate:
    """The estimate of a share.

    Arguments:
        error: Standard error of ``part``; None: binomial.
    """
    if whole == 0:
        return _none(info, "no sample is valid")
    p = part / whole
    binomial = math.sqrt(p * (1 - p) / whole)
    stderr = binomial if error is None else error / whole
    # Wilson's interval of as many trials as give the same error.
    trials = whole if binomial == 0 else p * (1 - p) / stderr**2 if stderr > 0 else math.inf
    low, high = wilson_interval(p, trials)
    test, draws = (stderr, None) if of_test else (None, stderr)
    return measured(info, p, test=test, draws=draws, ci_low=low, ci_high=high, **about)


def _none(info: MetricInfo, why: str) -> Estimate:
    return Estimate(info, status=Status.SKIPPED, reason=why)
