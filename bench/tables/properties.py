"""The properties of families, measured: rows to the table that the literature prints without numbers.

Reviews sort generative models by four words: stable to train, with a likelihood, fast to sample, with a latent code
smaller than the data. Here each word is a number of our rows, and where it disagrees with the word the table says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bench.plain import plain

__all__ = ["EXPECTED", "Properties", "properties_of", "to_markdown"]

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
    """One model on one data set.

    Attributes:
        seeds: Trainings.
        failed: Those that ended without a result: diverged, out of memory.
        collapsed: Those whose end was much worse than their best (``metric=[collapse]``), None where not measured.
        likelihood: ``exact``, ``bound``, ``estimate`` or ``none``.
        spread: Standard deviation over mean of the seeds' FID, None without two seeds.
        rate: Samples a second, None where not measured.
        fast: Whether that is at least ``FAST`` of the fastest on the device.
        latent_share: Latent dimensions over the data's, None without codes or where not measured.
        encoder: Whether it has one, None where not measured.
    """

    dataset: str
    model: str
    family: str
    device: str
    seeds: int
    failed: int
    collapsed: int | None
    likelihood: str
    spread: float | None
    rate: float | None
    fast: bool | None
    latent_share: float | None
    encoder: bool | None

    @property
    def disagreements(self) -> list[str]:
        """Words of the literature that these numbers do not bear out."""
        expected = EXPECTED.get(self.family)
        if expected is None:
            return []
        found = []
        unstable = self.failed + (self.collapsed or 0)
        if expected.stable and unstable:
            found.append(f"stable: {unstable} of {self.seeds} failed or collapsed")
        if not expected.stable and not unstable and self.collapsed is not None and self.seeds > 1:
            found.append(f"unstable: none of {self.seeds} failed or collapsed")
        if self.likelihood != expected.likelihood:
            found.append(f"likelihood {expected.likelihood}: here {self.likelihood}")
        if self.fast is not None and self.fast != expected.fast:
            found.append("fast: it is slow" if expected.fast else "slow: it is fast")
        compresses = self.latent_share is not None and self.latent_share < 1
        if self.encoder is not None and compresses != expected.compresses:
            found.append("compresses: it does not" if expected.compresses else "does not compress: it does")
        return found


def properties_of(frame: pd.DataFrame) -> list[Properties]:
    """The properties of every model in a frame of rows of best checkpoints; data, controls and samples are left out."""
    rows = frame[(frame["checkpoint"] == "best") & (frame["source"] == "measured")]
    rows = rows[~rows["model_family"].isin(["data", "control"])]
    found = [
        _of(str(dataset), str(model), part)
        for (dataset, model), part in rows.groupby(["dataset", "model"], observed=True, sort=True)
    ]
    fastest: dict[tuple[str, str], float] = {}
    for one in found:
        if one.rate is not None:
            key = (one.dataset, one.device)
            fastest[key] = max(fastest.get(key, 0.0), one.rate)
    return [_with_speed(one, fastest.get((one.dataset, one.device))) for one in found]


def _of(dataset: str, model: str, rows: pd.DataFrame) -> Properties:
    def values(metric: str) -> list[float]:
        of_metric = rows["metric"].astype(str).str.partition("[")[0] == metric
        return [float(value) for value in rows.loc[of_metric, "value"].dropna()]

    measured = (rows["status"] == "ok").groupby(rows["seed"]).any()  # by seed: whether it left any number
    likelihood = rows[(rows["metric"] == "log_likelihood") & (rows["status"] == "ok")]["relation"]
    relation = str(likelihood.iloc[0]) if len(likelihood) else "none"
    collapsed, fid, share, encoder = values("collapsed"), values("fid"), values("latent_share"), values("encoder")
    rates = values("samples_per_second")
    return Properties(
        dataset=dataset,
        model=model,
        family=str(rows["model_family"].iloc[0]),
        device=str(rows["device"].iloc[0]),
        seeds=len(measured),
        failed=int((~measured).sum()),
        collapsed=int(sum(collapsed)) if collapsed else None,
        likelihood={"exact": "exact", "lower_bound": "bound", "estimate": "estimate"}.get(relation, "none"),
        spread=float(pd.Series(fid).std() / pd.Series(fid).mean()) if len(fid) > 1 else None,
        rate=float(pd.Series(rates).median()) if rates else None,
        fast=None,
        latent_share=share[0] if share else None,
        encoder=bool(encoder[0]) if encoder else None,
    )


def _with_speed(one: Properties, fastest: float | None) -> Properties:
    if one.rate is None or fastest is None:
        return one
    return replace(one, fast=one.rate >= FAST * fastest)


def to_markdown(properties: Sequence[Properties]) -> str:
    """A table for each data set, a line for each model, families together."""
    lines: list[str] = []
    for dataset in dict.fromkeys(one.dataset for one in properties):
        lines += [
            f"## {plain(dataset)}", "",
            "| model | family | failed | collapsed | FID spread | likelihood | samples/s | latent / data | encoder "
            "| not as the literature has it |",
            "| --- | --- | ---: | ---: | ---: | --- | ---: | ---: | --- | --- |",
        ]  # fmt: skip
        of_data = [one for one in properties if one.dataset == dataset]
        for one in sorted(of_data, key=lambda one: (one.family, one.model)):
            cells = (
                plain(one.model).replace("_", "\\_"), one.family, f"{one.failed} of {one.seeds}",
                "–" if one.collapsed is None else f"{one.collapsed} of {one.seeds}",
                "–" if one.spread is None else f"{100 * one.spread:.1f} %", one.likelihood,
                "–" if one.rate is None else f"{one.rate:.3g}",
                "–" if one.latent_share is None else f"{one.latent_share:.3g}",
                "–" if one.encoder is None else "yes" if one.encoder else "no", "; ".join(one.disagreements),
            )  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += [
        "What the literature says: " + "; ".join(
            f"{family} {'stable' if e.stable else 'unstable'}, likelihood {e.likelihood}, "
            f"{'fast' if e.fast else 'slow'}, {'compresses' if e.compresses else 'does not compress'}"
            for family, e in EXPECTED.items()
        ) + f". Fast: at least {FAST:g} of the samples a second of the fastest model on the same device.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
