"""Samples of others as a subject with an identity of its own."""

from torch import Tensor

from bench.config.spec import Node, digest
from bench.provenance import device_name, git_state, versions
from bench.schema import Source
from bench.subjects.base import Origin
from bench.subjects.samples import GivenSamples

__all__ = ["given_samples"]


def given_samples(
    x: Tensor, sha256: str, label: str, *, data: Node, data_name: str, revision: str, seed: int,
    in_place: bool = False,
) -> GivenSamples:
    """The subject for samples ``(N, *shape)``.

    Its group is a hash of their bytes, their label and the data with their revision: other samples are another line of
    a table, and another seed another number in it.

    Arguments:
        sha256: Of the samples.
        label: What tables call them.
        data: The configuration of the data they are compared with, which ``data_name`` names.
        revision: Of these data.
        seed: Of their order, and of what metrics draw.
        in_place: Whether ``x`` may be put into that order.
    """
    what = {"samples": sha256, "label": label, "data": data, "revision": revision}
    key = digest({**what, "seed": seed})
    commit, dirty = git_state()
    origin = Origin(
        run_id=f"{data_name.replace('/', '-')}-{label}-{key[:8]}", training_key=key, group=digest(what), model=label,
        model_family="samples", checkpoint="given", seed=seed, budget="unknown", git_commit=commit, dirty=dirty,
        device=device_name("cpu", 1), versions=versions(), source=Source.EXTERNAL_SAMPLES,
    )  # fmt: skip
    return GivenSamples(x, seed, origin, in_place=in_place)
