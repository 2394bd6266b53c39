"""Histograms of several sets of numbers in one picture. Needs no torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from bench.tables.pictures import rendered, undisturbed

__all__ = ["histograms"]

BINS = 80


@undisturbed()
def histograms(sets: Mapping[str, np.ndarray[Any, Any]], title: str, unit: str) -> Image.Image:
    """The densities of sets of numbers ``(N,)``, by name, on one axis.

    The axis holds the middle 99 % of every set. The legend says how much of a set is beyond it, or infinite.
    """
    from matplotlib.figure import Figure

    finite = {name: values[np.isfinite(values)].astype(np.float64) for name, values in sets.items()}
    ends = [np.quantile(values, [0.005, 0.995]) for values in finite.values() if len(values) > 0]
    low, high = (min(end[0] for end in ends), max(end[1] for end in ends)) if ends else (0.0, 1.0)
    if not low < high:
        low, high = low - 0.5, high + 0.5
    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    edges = np.linspace(low, high, BINS + 1)
    for name, values in finite.items():
        counts, _ = np.histogram(values, edges)
        outside = 1 - counts.sum() / max(1, len(sets[name]))
        label = name if outside == 0 else f"{name} ({100 * outside:.2g} % outside)"
        axes.stairs(counts / max(1, len(sets[name])) / np.diff(edges), edges, fill=True, alpha=0.5, label=label)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(unit)
    axes.set_yticks([])
    axes.legend(fontsize=8)
    return rendered(figure)
