"""The door for notebooks: what the commands do, as four functions on Python objects.

``bench.run`` trains and measures, ``bench.evaluate`` measures samples that somebody already has, ``bench.load_rows``
and ``bench.table`` read what was measured. Everything is imported inside the function that needs it: reading rows does
not wait for torch, nor running for pandas.
"""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from bench.config.spec import Node
    from bench.data.base import Data
    from bench.data.reference import Reference
    from bench.runs.folder import Outcome
    from bench.schema import DataSpec, ResultRow

__all__ = ["evaluate", "load_rows", "run", "table"]

log = logging.getLogger("genbench")


def run(overrides: Sequence[str]) -> "tuple[Outcome, ...]":
    """Train and measure, as ``genbench run`` does with these arguments; how each run ended.

    Finished runs are not run again, and of a trained run only what is missing is measured. The leaderboard is printed
    and written, as by the command; ``bench.load_rows`` reads the rows.

    Arguments:
        overrides: ``KEY=VALUE`` as on the command line, and ``-m`` for a sweep:
            ``bench.run(["-m", "model=vae,dcgan", "seed=0,1"])``.

    Returns:
        For each run its ``run_id``, how it ``ended`` (``ok``, ``diverged``, ``failed``, ...), the ``reason`` in words,
        and whether it was finished ``before``. A run that fails raises nothing.

    Raises:
        bench.errors.UserError: A mistake in the overrides; nothing was started.
    """
    from bench.cli.run import run_missing, specs_of
    from bench.runs.sweep import outcomes_of, report

    arguments = _texts(overrides)
    options = [text for text in arguments if text.startswith("-")]
    for option in options:
        if option not in ("-m", "--multirun"):
            raise UserError(f"run {option}: only KEY=VALUE, and -m for a sweep, can be given here")
    specs = specs_of([text for text in arguments if text not in options], multirun=bool(options))
    seen = run_missing(specs, arguments)
    report(specs, seen)
    return outcomes_of(specs, seen)


def evaluate(
    samples: "np.ndarray[Any, Any] | Tensor | str | os.PathLike[str]",
    *,
    data: str | None = None,
    reference: "np.ndarray[Any, Any] | Tensor | str | os.PathLike[str] | None" = None,
    metrics: Sequence[str] = ("fid", "birthday"),
    n_samples: int | None = None,
    label: str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> "pd.DataFrame":
    """Measure samples against a data set of the harness, or against real examples that are given; a row a number.

    The rows are those that ``genbench evaluate samples=...`` makes. Nothing is written, but for the in-domain
    classifier of a labelled data set, which is kept in the cache.

    A ``reference`` takes the place of the test split, all of it. It should be examples that the model was not trained
    on; the birthday test, too, takes them as held out. Alone it has no labels and no training split, so what needs the
    in-domain classifier is ``skipped`` with the reason: ask for ``metric.fid.features=pixels``, or for features of your
    own, or name with ``data`` the data set whose classifier and training split are meant.

    >>> import bench, numpy
    >>> rng = numpy.random.default_rng(0)
    >>> real, fake = rng.normal(size=(2000, 2)), rng.normal(1, 1, size=(1000, 2))
    >>> rows = bench.evaluate(fake, reference=real, metrics=["fid"], overrides=["metric.fid.features=pixels"])
    >>> rows[["metric", "value", "stderr", "n_real", "n_fake"]].round(2)
            metric  value  stderr  n_real  n_fake
    0  fid[pixels]   2.17    0.11    2000    1000

    Arguments:
        samples: An array or a tensor ``(N, *shape)``, or a path: .npy, .npz, .pt, .pth, or a folder of pictures. They
            are in the data's own space, pictures as levels 0 .. L-1.
        data: Name of the data set that the samples imitate, as in ``data=mnist5k``.
        reference: Real examples in place of its test split: uint8 pictures ``(M, C, H, W)``, or floats ``(M, D)``, or a
            path as for samples; or an .npz file with the mean ``mu`` and the covariance ``sigma`` of features, of which
            ``fid`` alone can be had.
        metrics: Names, as ``genbench list metrics`` shows them.
        n_samples: How many of the samples are measured, taken at random; all of them unless given. Distances of
            different n do not compare.
        label: What tables call the samples; unless given, the file's name, or ``samples``.
        seed: Of random choices.
        overrides: Settings of the metrics, the data, and packages to trust: ``metric.fid.features=pixels``,
            ``data.path=/my/table.csv``, ``trust=[mypackage]``, ``hydra.searchpath=[file:///my/conf]``.

    Returns:
        A frame with the columns of ``bench.load_rows``; ``bench.table`` takes it, alone or put under other rows with
        ``pandas.concat``.

    Raises:
        bench.errors.UserError: The samples do not fit the data; a name or a setting is wrong.
    """
    from bench.config.build import build_data
    from bench.config.compose import compose_evaluation
    from bench.config.spec import Evaluation, check_name, typed
    from bench.data.formats.samples import as_samples, read_samples
    from bench.rows.frame import to_frame, with_texts
    from bench.runs.evaluate import on_samples

    if data is None and reference is None:
        raise UserError("evaluate: give what the samples imitate, either data=NAME or reference=ARRAY, or both")
    path = Path(samples) if isinstance(samples, str | os.PathLike) else None
    label = label or ("samples" if path is None else path.absolute().stem)
    check_name("label", label)
    if type(seed) is not int:
        raise UserError(f"seed={seed!r}: a whole number is expected")
    chosen = [f"metric=[{','.join(_names('metrics', [metrics] if isinstance(metrics, str) else metrics))}]"]
    chosen += [] if data is None else [f"data={_names('data', [data])[0]}"]
    overrides = _texts(overrides)
    _check_settings(overrides, has_data=data is not None)
    config = compose_evaluation(overrides, chosen)
    on_samples(config)  # before the data are built: everything that is named
    known = build_data(config["data"]) if data is not None else None
    node = dict(config["data"]) if data is not None else {}
    if reference is not None:
        compared = _reference(reference, None if known is None else known.spec, samples)
        known = compared.as_data() if known is None else compared.in_place_of_test(known)
        node["reference"] = compared.revision
    assert known is not None
    x = as_samples(_array("samples", samples), known.spec) if path is None else read_samples(path, known.spec)
    n = len(x) if n_samples is None else n_samples
    config = compose_evaluation(overrides, [*chosen, f"evaluate.n_samples={n}"])
    typed(Evaluation, config["evaluate"], "evaluate")
    return with_texts(to_frame(_measured(x, known, config, node, label, seed)))


def load_rows(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> "pd.DataFrame":
    """The rows of files, folders and patterns as a frame, see ``bench.rows.frame.load_rows``."""
    from bench.rows.frame import load_rows

    return load_rows(paths)


def table(
    rows: "pd.DataFrame | Iterable[ResultRow]", checkpoint: str = "best", metrics: Sequence[str] = ()
) -> "pd.DataFrame":
    """The leaderboard of rows as a frame: a line a model, a column a metric, see ``bench.tables.frame.table``."""
    from bench.tables.frame import table

    return table(rows, checkpoint, metrics)


def _measured(x: "Tensor", data: "Data", config: "Node", node: "Node", label: str, seed: int) -> "list[ResultRow]":
    """The rows of samples ``(N, *shape)``; ``node`` is the configuration of the data, for the key of the samples."""
    from bench.data.formats.samples import sha256_of
    from bench.evaluation.given import given_samples
    from bench.evaluation.measure import measure
    from bench.runs.evaluate import on_samples
    from bench.training.console import Reporter

    name = config["choices"].get("data", data.spec.name)
    subject = given_samples(x, sha256_of(x), label, data=node, data_name=name, revision=data.spec.revision, seed=seed)
    with Reporter(subject.origin.run_id, log) as say:
        rows, _ = measure(subject, data, on_samples(config), seed=seed, report=say.evaluating, note=say.note)
    return rows


def _reference(values: Any, spec: "DataSpec | None", samples: Any) -> "Reference":
    """The reference of a path, or of an array. ``samples`` show what statistics without a data set are of."""
    from bench.data.formats.samples import as_array, as_samples, described, spec_of
    from bench.data.reference import Reference, read_reference

    def shown(what: str, given: Any) -> "DataSpec":
        if isinstance(given, str | os.PathLike):
            return spec_of(given, what)
        array = as_array(_array(what, given), what)
        return described(array.shape, array.dtype, what, what)

    if isinstance(values, str | os.PathLike):
        return read_reference(Path(values), spec, lambda: shown("samples", samples))
    array = as_array(_array("reference", values), "reference")
    of_data = shown("reference", array) if spec is None else spec
    return Reference("reference", of_data, as_samples(array, of_data, "reference"))


def _array(what: str, values: Any) -> Any:
    """An array or a tensor as it is; UserError for anything else."""
    import numpy as np
    from torch import Tensor

    if not isinstance(values, np.ndarray | Tensor):
        raise UserError(f"{what}: a {type(values).__name__}; give a numpy array or a torch tensor")
    return values


def _names(what: str, names: Iterable[str]) -> list[str]:
    """The names as they are; UserError for what could be more than a name in an override."""
    names = list(names)
    for name in names:
        if not isinstance(name, str) or re.fullmatch(r"\w[\w./-]*", name) is None:
            raise UserError(f"{what}: {name!r} is no name; `genbench list {what}` shows them")
    return names


def _texts(overrides: Sequence[str]) -> list[str]:
    """A list of texts as it is; UserError for one text, or a list of anything else."""
    if isinstance(overrides, str) or not all(isinstance(text, str) for text in overrides):
        raise UserError(f'overrides: a list of texts is expected, as in ["seed=1"], not {overrides!r}')
    return list(overrides)


def _check_settings(overrides: list[str], has_data: bool) -> None:
    """Refuse overrides of what is an argument, and overrides that would have no effect."""
    from bench.config.compose import overridden

    for text in overrides:
        if "=" not in text:
            raise UserError(f"overrides: {text!r} is no KEY=VALUE")
        key, _ = overridden(text)
        if key.startswith("data.") and not has_data:
            raise UserError(f"overrides: {key} sets a data set, but there is a reference in its place")
        if not key.startswith(("metric.", "data.")) and key not in ("trust", "hydra.searchpath"):
            raise UserError(f"overrides: {key} cannot be set here; metric.NAME.KEY, data.KEY, trust and "
                            "hydra.searchpath can, all else is an argument")  # fmt: skip
