"""Draws ``overview.svg``, the README's picture: one frozen weight matrix, a mask per task, what each task sees.

python docs/img/overview.py
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

TASKS = ("textures", "digits", "flowers")
SIDE = 6
INK, FAINT, ON, OFF = "#1f2933", "#7b8794", "#334e68", "#dde2e8"


def grid(axes: Axes, values: np.ndarray, *, colours: str, low: float, high: float) -> None:
    shades = mpl.colormaps[colours].with_extremes(bad=OFF)
    axes.imshow(values, cmap=shades, vmin=low, vmax=high)
    axes.set_xticks(np.arange(SIDE) - 0.5, minor=True)
    axes.set_yticks(np.arange(SIDE) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def main() -> None:
    mpl.rcParams |= {"svg.hashsalt": "piggyback", "font.size": 11, "text.color": INK, "font.family": "sans-serif"}
    generator = np.random.default_rng(4)
    weights = generator.normal(0, 1, (SIDE, SIDE))
    masks = [generator.random((SIDE, SIDE)) > share for share in (0.15, 0.3, 0.22)]
    figure = plt.figure(figsize=(9.6, 4.1))
    axes = figure.add_axes((0.03, 0.29, 0.2, 0.46))
    grid(axes, weights, colours="RdBu", low=-2.4, high=2.4)
    figure.text(0.13, 0.83, "one frozen network", ha="center", fontweight="bold")
    figure.text(0.13, 0.2, "32 bits per weight,\nstored once", ha="center", va="top", color=FAINT)
    figure.text(0.45, 0.94, "a mask per task", ha="center", fontweight="bold")
    figure.text(0.45, 0.05, "1 bit per weight, learned", ha="center", color=FAINT)
    figure.text(0.70, 0.94, "what the task sees", ha="center", fontweight="bold")
    figure.text(0.70, 0.05, "grey weights are off", ha="center", color=FAINT)
    figure.text(0.90, 0.94, "its own head", ha="center", fontweight="bold")
    for row, (task, mask) in enumerate(zip(TASKS, masks, strict=True)):
        bottom = 0.67 - 0.28 * row
        middle = bottom + 0.115
        grid(figure.add_axes((0.39, bottom, 0.12, 0.23)), mask, colours="Greys", low=-0.35, high=1.3)
        seen = np.where(mask, weights, np.nan)
        grid(figure.add_axes((0.64, bottom, 0.12, 0.23)), seen, colours="RdBu", low=-2.4, high=2.4)
        figure.text(0.32, middle, "\N{CIRCLED DOT OPERATOR}", ha="center", va="center", fontsize=22, color=ON)
        figure.text(0.575, middle, "=", ha="center", va="center", fontsize=22, color=ON)
        figure.text(0.80, middle, "\N{RIGHTWARDS ARROW}", ha="center", va="center", fontsize=20, color=ON)
        box = {"boxstyle": "round,pad=0.5", "facecolor": "#f0f4f8", "edgecolor": FAINT}
        figure.text(0.90, middle, task, ha="center", va="center", bbox=box)
    # a white ground keeps the picture readable on a dark page; no date keeps the bytes the same
    figure.savefig(Path(__file__).with_suffix(".svg"), facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
