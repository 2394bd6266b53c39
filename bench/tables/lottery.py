r"""The lottery panel: how much of a number's spread is due to retraining, and how much to drawing samples again.

Every training seed i is measured under every sampling seed j (``evaluate.sampling_seeds``). Two-way random effects,

.. math:: v_{ij} = \mu + a_i + b_j + e_{ij},

give the variance between trainings and the variance within one training over sampling seeds, each with its degrees of
freedom (``bench.statistics.two_way_components``). Resampling alone, which most papers report if anything, leaves the
first out ("The FID Lottery", arXiv 2606.20536). The test examples are the same everywhere: what others would change is
in neither. Sampling seed 0 is left out: it is each run's own stream, so that trainings do not share its b_j. Imports no
torch.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bench.errors import UserError
from bench.plain import plain
from bench.rows.frame import protocol_of
from bench.statistics import Components, t_quantile, two_way_components
from bench.tables.as_csv import csv_entry
from bench.tables.columns import numbered
from bench.tables.markdown import escape_markdown

__all__ = ["Panel", "panels_of", "to_csv", "to_markdown"]

OWN_STREAM = 0
"""The sampling seed that every run takes by itself."""

_LINE = ["dataset", "model_family", "model", "group", "checkpoint"]


@dataclass(frozen=True)
class Panel:
    """One number of one configuration over training seeds and sampling seeds.

    Attributes:
        title: Of the metric.
        lost: Training seeds that lack a value under some sampling seed, and are left out.
        components: Of the others.
    """

    dataset: str
    model: str
    group: str
    checkpoint: str
    metric: str
    title: str
    n_fake: int | None
    lost: tuple[int, ...]
    components: Components

    @property
    def retraining(self) -> float:
        """Standard deviation over training seeds of the mean over infinitely many sampling seeds."""
        return math.sqrt(self.components.between)

    @property
    def resampling(self) -> float:
        """Standard deviation over sampling seeds within one training."""
        return math.sqrt(self.components.within)

    @property
    def half_width(self) -> float:
        """Half of the mean's 95 % interval, over new training seeds and new sampling seeds."""
        return t_quantile(0.025, self.components.df_of_mean) * math.sqrt(self.components.variance_of_mean)


def panels_of(rows: pd.DataFrame, metrics: Sequence[str] = (), checkpoint: str = "best") -> list[Panel]:
    """The panels of at least 2 x 2 seeds among rows, by data set, metric and model.

    Arguments:
        rows: A frame as in ``bench.rows.frame``.
        metrics: Names to keep; ``fid`` keeps ``fid[mnist-cnn]`` too. All where empty.
        checkpoint: Whose rows.

    Raises:
        UserError: There is no panel.
    """
    kept = (rows["checkpoint"] == checkpoint) & (rows["model_family"] != "data") & (rows["sampling_seed"] != OWN_STREAM)
    rows = rows[kept].reset_index(drop=True)
    if metrics:
        base = rows["metric"].astype(str).str.split("[").str[0]
        rows = rows[rows["metric"].isin(list(metrics)) | base.isin(list(metrics))].reset_index(drop=True)
    found = []
    for _, of_metric in rows.groupby(numbered(rows, [*_LINE, "metric"])):
        valued = of_metric[of_metric["status"] == "ok"].reset_index(drop=True)
        protocols = numbered(protocol_of(valued), list(protocol_of(valued).columns))
        for _, same in valued.groupby(protocols):
            panel = _panel(of_metric, same)
            if panel is not None:
                found.append(panel)
    if not found:
        raise UserError(
            "lottery: no number was measured with at least 2 training seeds under at least 2 sampling seeds above 0; "
            "genbench run -m seed=0,1,2,3 evaluate.sampling_seeds=[1,2,3,4] measures so"
        )
    return sorted(found, key=lambda one: (one.dataset, one.metric, one.model, one.group))


def _panel(of_metric: pd.DataFrame, same: pd.DataFrame) -> Panel | None:
    """The panel of the values of one protocol; None where it is smaller than 2 x 2."""
    values = same.drop_duplicates(["seed", "sampling_seed"], keep="last").pivot(
        index="seed", columns="sampling_seed", values="value"
    )
    whole = values.dropna()
    if min(whole.shape) < 2:
        return None
    first = same.iloc[0]
    n_fake = first["n_fake"]
    lost = sorted(set(of_metric["seed"]) - set(whole.index))
    return Panel(
        str(first["dataset"]), str(first["model"]), str(first["group"]), str(first["checkpoint"]),
        str(first["metric"]), str(first["metric_title"]) or str(first["metric"]),
        None if pd.isna(n_fake) else int(n_fake), tuple(map(int, lost)), two_way_components(whole.to_numpy()),
    )  # fmt: skip


def to_markdown(panels: Sequence[Panel]) -> str:
    """A line a panel: mean with its 95 % interval, both standard deviations with their degrees of freedom."""
    lines = [
        "| data | metric | model | seeds x draws | mean | retraining sd (df) | resampling sd (df) | in % of mean |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in panels:
        parts = one.components
        mean = f"{parts.mean:.4g} ± {one.half_width:.2g}"
        size = f"{parts.seeds} x {parts.draws}" + (f" (lost: {', '.join(map(str, one.lost))})" if one.lost else "")
        between = f"{one.retraining:.3g} ({parts.df_between:.1f})" if parts.between > 0 else "0 (none seen)"
        share = f"{100 * one.retraining / abs(parts.mean):.1f}" if parts.mean != 0 else ""
        cells = [one.dataset, one.title, _name(one, panels), size, mean, between,
                 f"{one.resampling:.3g} ({parts.df_within:.1f})", share]  # fmt: skip
        lines.append("| " + " | ".join(escape_markdown(plain(cell)) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def to_csv(panels: Sequence[Panel]) -> str:
    """The same in full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([
        "dataset", "checkpoint", "metric", "n_fake", "model", "group", "training_seeds", "sampling_seeds", "lost",
        "mean", "half_width", "retraining_sd", "retraining_df", "resampling_sd", "resampling_df", "shared_sd",
    ])  # fmt: skip
    for one in panels:
        parts = one.components
        record = (
            one.dataset, one.checkpoint, one.metric, one.n_fake, one.model, one.group, parts.seeds, parts.draws,
            " ".join(map(str, one.lost)), parts.mean, one.half_width, one.retraining, parts.df_between, one.resampling,
            parts.df_within, math.sqrt(parts.shared),
        )  # fmt: skip
        writer.writerow(map(csv_entry, record))
    return file.getvalue()


def _name(panel: Panel, panels: Sequence[Panel]) -> str:
    """The model; with the beginning of its group where another configuration has its name."""
    groups = {one.group for one in panels if (one.dataset, one.model) == (panel.dataset, panel.model)}
    return panel.model if len(groups) == 1 else f"{panel.model} {panel.group[:6]}"
