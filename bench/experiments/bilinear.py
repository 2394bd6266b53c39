r"""Cycling on the bilinear game, the smallest game on which gradient steps do not converge.

.. math:: \min_x \max_y \; x y

Its only equilibrium is (0, 0). Let :math:`r_t` be the distance from it after t steps of size :math:`\eta`, and
:math:`\theta = \arccos(1 - \eta^2/2)`.

- Simultaneous gradient steps spiral outwards: :math:`r_t = r_0 (1 + \eta^2)^{t/2}`.
- Alternating steps, where y sees the new x, cycle for ever: :math:`x^2 + y^2 - \eta x y` stays what it was, and
  :math:`M^t = (\sin(t\theta) M - \sin((t-1)\theta) I) / \sin\theta` is the matrix of t steps.
- The average of the iterates of alternating steps converges like 1/t: it is :math:`(I - M)^{-1}(I - M^t) z_0 / t`.
- Extragradient steps, with the gradient at where a step would lead, converge:
  :math:`r_t = r_0 (1 - \eta^2 + \eta^4)^{t/2}`.

``python -m bench.experiments.bilinear --out FOLDER`` writes ``bilinear.csv``, the distances that the steps take beside
those of the formulas, and ``bilinear.png``.

References:
    Mescheder, Nowozin, Geiger (2017): The numerics of GANs, arXiv:1705.10461.
    Gidel, Berard, Vignoud, Vincent, Lacoste-Julien (2019): A variational inequality perspective on generative
    adversarial networks, arXiv:1802.10551.
    Korpelevich (1976): The extragradient method for finding saddle points and other problems.
"""

import argparse
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.experiments.out import add_out, folder_of
from bench.files import durable_write
from bench.tables.curves import write_curve
from bench.tables.pictures import rendered, undisturbed

__all__ = ["METHODS", "exact_radii", "iterates", "main", "run"]

Point = tuple[float, float]


def simultaneous(x: float, y: float, step: float) -> Point:
    return x - step * y, y + step * x


def alternating(x: float, y: float, step: float) -> Point:
    x = x - step * y
    return x, y + step * x


def extragradient(x: float, y: float, step: float) -> Point:
    ahead_x, ahead_y = simultaneous(x, y, step)
    return x - step * ahead_y, y + step * ahead_x


METHODS: dict[str, Callable[[float, float, float], Point]] = {
    "simultaneous": simultaneous, "alternating": alternating, "averaged": alternating, "extragradient": extragradient,
}  # fmt: skip


def iterates(method: str, start: Point, step: float, steps: int) -> NDArray[np.float64]:
    """The points after 0 .. ``steps`` steps, ``(steps + 1, 2)``; of ``averaged``, the mean of the points before."""
    points = [start]
    for _ in range(steps):
        points.append(METHODS[method](*points[-1], step))
    made = np.array(points)
    if method == "averaged":
        means = np.cumsum(made[:-1], axis=0) / np.arange(1, steps + 1)[:, None]
        made = np.concatenate([made[:1], means])
    return made


def exact_radii(method: str, start: Point, step: float, steps: int) -> NDArray[np.float64]:
    """The distances from (0, 0) after 0 .. ``steps`` steps by the formulas, ``(steps + 1,)``; 0 < step < 2."""
    t = np.arange(steps + 1)
    r0 = math.hypot(*start)
    if method == "simultaneous":
        return np.asarray(r0 * (1 + step**2) ** (t / 2))
    if method == "extragradient":
        return np.asarray(r0 * (1 - step**2 + step**4) ** (t / 2))
    one = np.array([[1, -step], [step, 1 - step**2]])
    angle = math.acos(1 - step**2 / 2)
    first, second = np.sin(t * angle)[:, None, None], np.sin((t - 1) * angle)[:, None, None]
    powers = (first * one - second * np.eye(2)) / math.sin(angle)  # (steps + 1, 2, 2)
    if method == "averaged":
        powers = np.linalg.inv(np.eye(2) - one) @ (np.eye(2) - powers) / np.maximum(t, 1)[:, None, None]
        powers[0] = np.eye(2)
    return np.asarray(np.linalg.norm(powers @ np.array(start), axis=1))


def run(folder: Path, *, step: float = 0.1, steps: int = 400, start: Point = (1.0, 0.0)) -> None:
    """Write ``bilinear.csv`` and ``bilinear.png`` into a folder."""
    paths = {method: iterates(method, start, step, steps) for method in METHODS}
    radii = {method: np.linalg.norm(points, axis=1) for method, points in paths.items()}
    exact = {method: exact_radii(method, start, step, steps) for method in METHODS}
    columns = {**radii, **{f"{method}_exact": values for method, values in exact.items()}}
    curve = [
        {"step": float(t), **{name: float(values[t]) for name, values in columns.items()}} for t in range(steps + 1)
    ]
    write_curve(folder / "bilinear.csv", curve)
    _draw(folder / "bilinear.png", paths, radii, exact, step)


@undisturbed()
def _draw(
    path: Path, paths: dict[str, NDArray[np.float64]], radii: dict[str, NDArray[np.float64]],
    exact: dict[str, NDArray[np.float64]], step: float,
) -> None:  # fmt: skip
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), dpi=100, layout="constrained")
    figure.suptitle(f"Gradient steps on the game min over x, max over y of xy, step size {step:g}", fontsize=12)
    plane, over_time = figure.subplots(1, 2)
    for number, method in enumerate(paths):
        points, colour = paths[method], f"C{number}"
        near = points[np.linalg.norm(points, axis=1) <= 2.5]
        plane.plot(*near.T, linewidth=1, color=colour, label=method)
        over_time.plot(radii[method], color=colour, linewidth=3, alpha=0.5, label=method)
        over_time.plot(exact[method], color="black", linestyle=":", linewidth=1)
    over_time.plot([], [], color="black", linestyle=":", label="closed form")
    plane.plot(0, 0, "k+", markersize=10)
    plane.set(xlabel="x [no unit]", ylabel="y [no unit]", aspect="equal", title="path in the plane (within 2.5)")
    over_time.set(
        xlabel="gradient step [count]", ylabel="distance from the equilibrium (0, 0) [no unit]", yscale="log",
        title="distance",
    )  # fmt: skip
    for axes in (plane, over_time):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    png = io.BytesIO()
    rendered(figure).save(png, format="PNG")
    durable_write(path, png.getvalue())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment from the command line.

    Raises:
        UserError: The folder cannot be made, or a number is out of range.
    """
    parser = argparse.ArgumentParser("python -m bench.experiments.bilinear", description=__doc__.partition("\n")[0])
    add_out(parser)
    parser.add_argument("--step", type=float, default=0.1, help="step size, above 0 and below 2; default: 0.1")
    parser.add_argument("--steps", type=int, default=400, help="number of steps; default: 400")
    given = parser.parse_args(arguments)
    if not 0 < given.step < 2:
        parser.error("--step must be above 0 and below 2: from 2 on, alternating steps diverge")
    if given.steps < 1:
        parser.error("--steps must be at least 1")
    run(folder_of(parser, given.out), step=given.step, steps=given.steps)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
