"""What a model can do, or in words why it cannot."""

from bench.errors import UnavailableError
from models.base import (
    Autoencodes,
    ChecksInverse,
    ClassConditional,
    ClipsSamples,
    GenerativeModel,
    HasDecoder,
    HasDiscriminator,
    HasPosterior,
    ReportsCost,
    SamplesClasses,
    SolvesODE,
)

__all__ = [
    "NO_ODE",
    "clipping",
    "counted",
    "decoding",
    "of_classes",
    "shown",
    "with_classes",
    "with_codes",
    "with_decoder",
    "with_inverse",
    "with_posterior",
]

NO_ODE = "the likelihood is not the solution of a differential equation"


def counted(model: GenerativeModel) -> tuple[str, ...]:
    """Return what is counted of a model besides the costs that every model has."""
    own = model.cost_names if isinstance(model, ReportsCost) else ()
    return (*own, *(("discriminator_parameters",) if isinstance(model, HasDiscriminator) else ()))


def with_classes(model: GenerativeModel) -> ClassConditional:
    """Return the model itself.

    Raises:
        UnavailableError: It has no likelihood given a class.
    """
    if not isinstance(model, ClassConditional) or model.classes == 0:
        raise UnavailableError("the model has no likelihood given a class")
    return model


def of_classes(model: GenerativeModel) -> SamplesClasses:
    """Return the model itself.

    Raises:
        UnavailableError: It cannot be sampled, or is not class-conditional.
    """
    if model.cannot_sample:
        raise UnavailableError(f"the model cannot be sampled: {model.cannot_sample}")
    if not isinstance(model, SamplesClasses) or model.classes == 0:
        raise UnavailableError("the model is not class-conditional: its samples have no labels")
    return model


def clipping(model: GenerativeModel) -> ClipsSamples:
    """Return the model itself.

    Raises:
        UnavailableError: It cannot be sampled, or does not say which of its samples it clips.
    """
    if model.cannot_sample:
        raise UnavailableError(f"the model cannot be sampled: {model.cannot_sample}")
    if not isinstance(model, ClipsSamples) or not model.clips_samples:
        raise UnavailableError("the model does not report samples outside the data's range")
    return model


def with_inverse(model: GenerativeModel) -> ChecksInverse:
    """Return the model itself.

    Raises:
        UnavailableError: It is no flow, or its transform has no inverse.
    """
    if not isinstance(model, ChecksInverse):
        raise UnavailableError("the model is no flow")
    if model.cannot_sample:
        raise UnavailableError(model.cannot_sample)
    return model


def with_codes(model: GenerativeModel) -> Autoencodes:
    """Return the model itself.

    Raises:
        UnavailableError: It has no codes.
    """
    if not isinstance(model, Autoencodes):
        raise UnavailableError("the model has no latent codes")
    return model


def decoding(model: GenerativeModel) -> Autoencodes:
    """Return the model itself.

    Raises:
        UnavailableError: It has no codes, or cannot decode them.
    """
    if isinstance(model, Autoencodes) and model.cannot_sample:
        raise UnavailableError(f"the model cannot decode: {model.cannot_sample}")
    return with_codes(model)


def with_posterior(model: GenerativeModel) -> HasPosterior:
    """Return the model itself.

    Raises:
        UnavailableError: It has no approximate posterior.
    """
    if not isinstance(model, HasPosterior):
        raise UnavailableError("the model has no approximate posterior")
    return model


def with_decoder(model: GenerativeModel) -> HasDecoder:
    """Return the model itself.

    Raises:
        UnavailableError: It has no decoder of codes alone.
    """
    if not isinstance(model, HasDecoder):
        raise UnavailableError("the model has no decoder of standard normal codes")
    return model


def shown(model: GenerativeModel, relation: str) -> str:
    return model.shown_relation if isinstance(model, SolvesODE) else relation
