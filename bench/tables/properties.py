"""The properties of families, measured: rows to the table that the literature prints without numbers.

Reviews sort generative models by four words: stable to train, with a likelihood, fast to sample, with a latent code
smaller than the data. Here each word is a number of our rows, and where it disagrees with the word the table says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bench.plain import plain
from bench.tables.model import REFERENCES
from bench.tables.ranking import LEAST_LOAD

__all__ = ["EXPECTED", "Properties", "Published", "properties_of", "published_of", "to_markdown"]

FAST = 0.05
"""A model is fast if it draws at least this share of the samples a second of the fastest model on the same device."""


@dataclass(frozen=True)
class Expected:
    """What reviews say of a family (Mohamed, Lakshminarayanan 2016, arXiv:1610.03483; Bond-Taylor, Leach, Long,
    Willcocks 2021, Deep generative modelling: A comparative review, arXiv:2103.04922)."""

    stable: bool
    likelihood: str
    fast: bool
    compresses: bool


EXPECTED = {
    "autoregressive": Expected(True, "exact", False, False),
    "flow": Expected(True, "exact", True, False),
    "gan": Expected(False, "none", True, True),
    "vae": Expected(True, "bound", True, True),
    "energy": Expected(False, "estimate", False, True),
    "diffusion": Expected(True, "bound", False, False),
}


@dataclass(frozen=True)
class Properties:
    """One configuration of one model on one data set.

    Attributes:
        trainings: Trainings with other seeds.
        failed: Those that ended without a result: diverged, out of memory.
        collapsed: Those whose end was much worse than their best, None where that was not measured of all others.
        likelihood: ``exact``, ``bound``, ``estimate``, ``none``, or the empty string where it was not measured.
        spread: Standard deviation over mean of the seeds' FID, None without two of one protocol.
        rate: Samples a second, None where not measured, or on a busy machine.
        fast: Whether that is at least ``FAST`` of the fastest on the device.
        latent_share: Latent dimensions over the data's, None without codes or where not measured.
        encoder: Whether it has one, None where not measured.
        passes: Of a model of graphs, the passes of networks, one after another, that a batch of samples takes.
        general: Of a model of graphs, whether it takes molecules and other graphs alike (``bench.metrics.general``).
    """

    dataset: str
    model: str
    family: str
    device: str
    trainings: int
    failed: int
    collapsed: int | None
    likelihood: str
    spread: float | None
    rate: float | None
    fast: bool | None
    latent_share: float | None
    encoder: bool | None
    passes: float | None = None
    general: bool | None = None

    @property
    def disagreements(self) -> list[str]:
        """Words of the literature that these numbers do not bear out."""
        expected = EXPECTED.get(self.family)
        if expected is None:
            return []
        found = []
        unstable = self.failed + (self.collapsed or 0)
        if expected.stable and unstable:
            found.append(f"stable: {unstable} of {self.trainings} failed or collapsed")
        if not expected.stable and not unstable and self.collapsed is not None and self.trainings > 1:
            found.append(f"unstable: none of {self.trainings} failed or collapsed")
        if self.likelihood not in (expected.likelihood, ""):
            found.append(f"likelihood {expected.likelihood}: here {self.likelihood}")
        if self.fast is not None and self.fast != expected.fast:
            found.append("fast: it is slow" if expected.fast else "slow: it is fast")
        if self.latent_share is not None and (self.latent_share < 1) != expected.compresses:
            found.append("compresses: it does not" if expected.compresses else "does not compress: it does")
        return found


@dataclass(frozen=True)
class Published:
    """What is published of a model of graphs; None where that is not.

    Attributes:
        parallel: Whether all of a graph is sampled at once.
        general: Whether it takes graphs of any kind.
        source: Where it is from.
    """

    model: str
    family: str
    parallel: bool | None
    general: bool | None
    source: str


def properties_of(frame: pd.DataFrame) -> list[Properties]:
    """The properties of every configuration in a frame of rows (``bench.rows.frame.load_rows``).

    Rows of the best checkpoint count, or of the final one where nothing else was measured. Data, controls and samples
    of others are left out.
    """
    rows = frame[(frame["source"] == "measured") & ~frame["model_family"].isin(list(REFERENCES))]
    found = [_of(part) for _, part in rows.groupby(["dataset", "model", "group"], observed=True, sort=True)]
    fastest: dict[tuple[str, str], float] = {}
    for one in found:
        if one.rate is not None and one.family in EXPECTED:  # a Gaussian in closed form is no measure of speed
            key = (one.dataset, one.device)
            fastest[key] = max(fastest.get(key, 0.0), one.rate)
    return [_with_speed(one, fastest.get((one.dataset, one.device))) for one in found]


def _of(rows: pd.DataFrame) -> Properties:
    """The properties of one group."""
    rows = rows[rows["checkpoint"] == ("best" if (rows["checkpoint"] == "best").any() else "final")]
    name = rows["metric"].str.partition("[")[0]
    # The accuracy of the features says nothing of the model: a training that diverged has it too.
    of_model = rows[name != "accuracy"]
    left = (of_model["status"] == "ok").groupby(of_model["training_key"]).any()
    is_time = name == "samples_per_second"
    quiet = is_time & (~rows["device"].str.startswith("cpu") | (rows["load"] >= LEAST_LOAD))

    def values(chosen: pd.Series) -> list[float]:
        return [float(value) for value in rows.loc[chosen, "value"].dropna()]

    collapsed, share, encoder, passes, general = (
        values(name == metric) for metric in ("collapsed", "latent_share", "encoder", "passes_sample", "general")
    )
    rates = values(quiet)
    return Properties(
        dataset=str(rows["dataset"].iloc[0]),
        model=str(rows["model"].iloc[0]),
        family=str(rows["model_family"].iloc[0]),
        device=str(rows["device"].iloc[0]),
        trainings=len(left),
        failed=int((~left).sum()),
        collapsed=int(sum(collapsed)) if len(collapsed) == int(left.sum()) > 0 else None,
        likelihood=_likelihood(rows[name == "log_likelihood"]),
        spread=_spread(rows[name == "fid"]),
        rate=float(pd.Series(rates).median()) if rates else None,
        fast=None,
        latent_share=share[0] if share else None,
        encoder=bool(encoder[0]) if encoder else None,
        passes=passes[0] if passes else None,
        general=bool(min(general)) if general else None,
    )


def _likelihood(rows: pd.DataFrame) -> str:
    measured = rows[rows["status"] == "ok"]
    if len(measured):
        words = {"exact": "exact", "lower_bound": "bound", "estimate": "estimate"}
        return words.get(str(measured["relation"].iloc[0]), "")
    return "none" if len(rows) and (rows["status"] == "skipped").all() else ""


def _spread(rows: pd.DataFrame) -> float | None:
    """Of FIDs of one protocol: those with features of a classifier before those of pixels."""
    protocol = ["metric", "metric_version", "extractor_hash", "n_real", "n_fake"]
    for _, part in sorted(rows.groupby(protocol, dropna=False), key=lambda pair: str(pair[0])):
        fids = part["value"].dropna()
        if len(fids) > 1:
            return float(fids.std() / fids.mean())
    return None


def _with_speed(one: Properties, fastest: float | None) -> Properties:
    if one.rate is None or fastest is None or one.family not in EXPECTED:
        return one
    return replace(one, fast=one.rate >= FAST * fastest)


def published_of(frame: pd.DataFrame) -> list[Published]:
    """What quoted rows say of models of graphs: the words ``parallel`` and ``general``, by where they are from."""
    is_quoted = (frame["source"] == "quoted") & (frame["status"] == "ok")
    rows = frame[is_quoted & frame["metric"].isin(["parallel", "general"])]
    found = []
    for key, part in rows.groupby(["model", "model_family", "reason"], observed=True, sort=True):
        model, family, source = map(str, key)
        words = dict(zip(part["metric"], part["value"].astype(bool), strict=True))
        found.append(Published(model, family, words.get("parallel"), words.get("general"), source))
    return found


def to_markdown(properties: Sequence[Properties], published: Sequence[Published] = ()) -> str:
    """A table for each data set, a line for each model, families together; and what is published of other models."""
    lines: list[str] = []
    for dataset in dict.fromkeys(one.dataset for one in properties):
        of_data = [one for one in properties if one.dataset == dataset]
        of_graphs = any(one.general is not None for one in of_data)
        lines += [
            f"## {plain(dataset)}", "",
            "| model | family | failed | collapsed | FID spread | likelihood | samples/s | latent / data | encoder "
            + "| passes to sample | general " * of_graphs + "| not as the literature has it |",
            "| --- | --- | ---: | ---: | ---: | --- | ---: | ---: | --- " + "| ---: | --- " * of_graphs + "| --- |",
        ]  # fmt: skip
        for one in sorted(of_data, key=lambda one: (one.family, one.model)):
            cells = (
                _escaped(one.model), _escaped(one.family), f"{one.failed} of {one.trainings}",
                "–" if one.collapsed is None else f"{one.collapsed} of {one.trainings}",
                "–" if one.spread is None else f"{100 * one.spread:.1f} %", one.likelihood or "–",
                "–" if one.rate is None else f"{one.rate:.3g}",
                "–" if one.latent_share is None else f"{one.latent_share:.3g}",
                _word(one.encoder),
                *(("–" if one.passes is None else f"{one.passes:.0f}", _word(one.general)) if of_graphs else ()),
                "; ".join(one.disagreements),
            )  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    if published:
        lines += ["## published", "", "| model | family | parallel | general | |", "| --- | --- | --- | --- | --- |"]
        for other in published:
            texts = map(_escaped, (other.model, other.family))
            words = _word(other.parallel), _word(other.general)
            lines.append("| " + " | ".join([*texts, *words, _escaped(other.source)]) + " |")
        lines += ["", "Parallel: all of a graph is sampled at once. General: the model takes graphs of any kind.", ""]
    lines += [
        "What the literature says: " + "; ".join(
            f"{family} {'stable' if e.stable else 'unstable'}, likelihood {e.likelihood}, "
            f"{'fast' if e.fast else 'slow'}, {'compresses' if e.compresses else 'does not compress'}"
            for family, e in EXPECTED.items()
        ) + f". Fast: at least {FAST:g} of the samples a second of the fastest model on the same device.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _word(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "no"


def _escaped(text: str) -> str:
    return plain(text).replace("_", "\\_").replace("|", "\\|")
