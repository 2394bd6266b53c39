"""Samples of others, and models of others, as subjects with an identity of their own."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.config.spec import Node, digest, fingerprint
from bench.provenance import device_name, git_state, versions
from bench.schema import DataSpec, Source
from bench.subjects.base import Origin, Subject
from bench.subjects.own import OwnModel
from bench.subjects.samples import GivenSamples
from bench.subjects.trained import TrainedModel
from models.base import GenerativeModel

__all__ = ["given_model", "given_samples"]


def given_samples(
    x: Tensor,
    sha256: str,
    label: str,
    *,
    data: Node,
    data_name: str,
    revision: str,
    seed: int,
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
    return GivenSamples(x, seed, _origin(what, label, data_name, seed), in_place=in_place)


def given_model(
    model: Any, node: Node, label: str, *, data: Node, data_name: str, spec: DataSpec, revision: str, seed: int
) -> Subject:
    """The subject for a model of the user's own.

    Its group is a hash of its configuration, of the files that it names, of its weights if it is a ``torch.nn.Module``,
    of its label and of the data. Its code is in no hash.

    Arguments:
        model: A ``GenerativeModel``, or an object as ``OwnModel`` wants it.
        node: Its configuration.
        spec: Of the data, for the space that the model is to be in.
        data, data_name, revision, seed: As in ``given_samples``.

    Raises:
        UserError: The object neither samples nor has a likelihood.
    """
    files = {text: fingerprint(text) for text in _texts(node)}
    what = {"subject": node, "files": files, "weights": "", "label": label, "data": data, "revision": revision}
    size = None
    if isinstance(model, nn.Module):
        what["weights"] = _sha256(model)
        size = sum(parameter.numel() for parameter in model.parameters())
    origin = replace(_origin(what, label, data_name, seed), n_params=size, model_family="own", device=_device(model))
    if isinstance(model, GenerativeModel):
        return TrainedModel(model, None, seed, replace(origin, model_family=model.family))
    return OwnModel(model, spec, seed, origin)


def _device(model: Any) -> str:
    """The device that a model is on, as ``OwnModel`` finds it."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return device_name("cpu" if first is None else first.device.type, 1)


def _origin(what: Node, label: str, data_name: str, seed: int) -> Origin:
    """Where a subject of others comes from; ``what`` is all that it depends on but the seed."""
    key = digest({**what, "seed": seed})
    commit, dirty = git_state()
    return Origin(
        run_id=f"{data_name.replace('/', '-')}-{label}-{key[:8]}", training_key=key, group=digest(what), model=label,
        model_family="samples", checkpoint="given", seed=seed, budget="unknown", git_commit=commit, dirty=dirty,
        device=device_name("cpu", 1), versions=versions(), source=Source.EXTERNAL_SAMPLES,
    )  # fmt: skip


def _texts(node: Any) -> list[str]:
    """The texts of a configuration that may be paths."""
    if isinstance(node, Mapping):
        return [text for key, value in node.items() if key != "_target_" for text in _texts(value)]
    if isinstance(node, list | tuple):
        return [text for value in node for text in _texts(value)]
    return [node] if isinstance(node, str) else []


def _sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
