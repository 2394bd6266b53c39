"""The validation score that selects the best checkpoint."""

import functools
from collections.abc import Callable

import torch

from bench.chunks import draw_log_weights, draw_samples, losses
from bench.data.base import Data
from bench.errors import UserError
from bench.features.classifier import InDomainClassifier
from bench.metrics.frechet import frechet_distance_from_features
from bench.seeds import derive_seed
from models.base import GenerativeModel, HasLikelihood, ValidatedByLoss

__all__ = ["VALIDATION_EXAMPLES", "validation_score"]

VALIDATION_EXAMPLES = 2000


def validation_score(
    data: Data, seed: int, note: Callable[[str], None] | None = None
) -> Callable[[GenerativeModel], float]:
    """Return a function that scores models on the first 2000 validation examples; lower is better.

    For a model that is validated by a loss (``models.base.ValidatedByLoss``) the score is that loss. For another model
    with a likelihood the score is the negative log-likelihood (one draw, in nats). For other models it is
    the Fréchet distance between the validation examples and as many samples, on the in-domain classifier's features if
    the data have such a classifier, else on the raw entries.

    Arguments:
        data: The data set with the validation split.
        seed: Base seed of the draws and samples.
        note: Called with a line of text before a long operation.

    Raises:
        UserError: There are fewer than two validation examples.
    """
    real = data.val.x[:VALIDATION_EXAMPLES]
    if len(real) < 2:
        raise UserError(f"{data.spec.name}: {len(real)} validation examples are too few to compare checkpoints; "
                        "bring at least 20 examples")  # fmt: skip
    recipe = InDomainClassifier()

    @functools.cache
    def features() -> Callable[[torch.Tensor], torch.Tensor]:
        if recipe.lacks(data):
            return lambda x: x.flatten(1).float()
        # Scores are computed without gradients, but the classifier may have to be trained first.
        with torch.enable_grad():
            return recipe.extractor(data, note).features

    @functools.cache
    def of_real() -> torch.Tensor:
        return features()(real)

    def score(model: GenerativeModel) -> float:
        generator = torch.Generator(device=model.device).manual_seed(derive_seed(seed, "validate"))
        if isinstance(model, ValidatedByLoss):
            return float(losses(model, real, model.device, generator).mean())
        if isinstance(model, HasLikelihood):
            return -float(draw_log_weights(model, real, model.device, generator).mean())
        fake = draw_samples(model, len(real), generator)
        return frechet_distance_from_features(features()(fake), of_real())

    return score
