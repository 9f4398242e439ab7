"""The drawing itself. Imports matplotlib, so that only a call of `plot` does."""

import io

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
_MAX_LINES = 64
_MAX_MARKED = 30  # epochs, up to which each has a marker


class Picture(Figure):
    """A figure that a notebook shows, also one that never imported pyplot."""

    def _repr_png_(self):
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=100)
        return content.getvalue()


def curves(run):
    """The scores of a `runs.Run`, and below them the way to the grid where it was recorded."""
    has_grid = any("on_grid" in row for row in run.pulled)
    figure = Picture(figsize=(8, 5.6 if has_grid else 4), layout="constrained")
    every = figure.subplots(1 + has_grid, sharex=True, squeeze=False,
                            height_ratios=(2, 1)[: 1 + has_grid])[:, 0]  # fmt: skip
    _draw_scores(every[0], run)
    if has_grid:
        _draw_grid(every[1], run)
    last = run.last_warm_epoch + len(run.pulled)
    for axes in every:
        axes.grid(alpha=0.25)
        _mark_phases(axes, run, has_names=axes is every[0])
    every[-1].set_xlabel("epoch")
    every[-1].set_xlim(run.first + 0.5, last + 0.5)
    every[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def _draw_scores(axes, run):
    name = run.score.replace("_", " ")
    is_validated = any(f"val_{run.score}" in row for row in run.warm + run.pulled)
    key = f"val_{run.score}" if is_validated else run.score
    warm, pulled = run.points(run.warm, key), run.points(run.pulled, key)
    # The pulled weights begin where the warm start ended.
    joined = [
        part[-1:] + other if other else other for part, other in zip(warm, pulled, strict=True)
    ]
    quantized = run.points(run.pulled, f"quantized_{run.score}")
    # A wide pale line below a thin dashed one: both are seen where they agree.
    _line(axes, run, warm, "full precision", color=_GREY, linewidth=2, zorder=3)
    _line(axes, run, joined, "in training", color=_BLUE, linewidth=4, alpha=0.45)
    _line(axes, run, quantized, "quantized", color=_ORANGE, linestyle="--", linewidth=1.4)
    axes.set_ylabel(f"{'validation' if is_validated else 'training'} {name}")
    axes.legend(loc="best", fontsize=9)
    ends = [("full precision", warm), ("in training", pulled), ("quantized", quantized)]
    shown = [f"{label} {values[-1]:.4g}" for label, (_, values) in ends if values]
    if quantized[1] and quantized[1][-1] == pulled[1][-1]:
        shown = [text for text in shown if not text.startswith("in training")]
    axes.set_title(f"{name}: " + ", ".join(shown), loc="left", fontsize=10)


def _draw_grid(axes, run):
    lines = (
        ("on the grid", "on_grid", _GREEN, "-"),
        ("sign changed", "sign_change", _ORANGE, "--"),
    )
    for label, key, color, style in lines:
        points = run.points(run.pulled, key)
        _line(axes, run, points, label, color=color, linestyle=style, linewidth=1.8)
    axes.set_ylim(-0.04, 1.04)
    axes.set_ylabel("share")
    axes.set_title("weights: on the grid, and of another sign than at the start", loc="left",
                   fontsize=10)  # fmt: skip
    axes.legend(loc="best", fontsize=9)


def _line(axes, run, points, label, **style):
    epochs, values = points
    if not epochs:
        return
    is_short = len(run.warm) + len(run.pulled) <= _MAX_MARKED or len(epochs) == 1
    axes.plot(epochs, values, label=label, marker="o" if is_short else None, markersize=4, **style)


def _mark_phases(axes, run, has_names):
    """Shades the warm start and marks the freeze."""
    names = []
    if run.warm and run.pulled:
        axes.axvspan(run.first + 0.5, run.last_warm_epoch + 0.5, color="#000000", alpha=0.06, lw=0)
        names.append((run.first + 0.5, " warm start"))
    if run.freeze is not None:
        axes.axvline(run.freeze, color="#333333", linestyle=":", linewidth=1.2)
        names.append((run.freeze, " freeze"))
    for epoch, name in names if has_names else ():
        axes.text(epoch, 0.02, name, transform=axes.get_xaxis_transform(), fontsize=8)


def arrival(rows, panels=6):
    """Histograms of the selected weights at some epochs, from the start to the last one."""
    # All but the last panel while the weights still move, where there is something to see.
    moving = [i for i, row in enumerate(rows) if row["counts"] != rows[-1]["counts"]]
    last = moving[-1] if moving else 0
    chosen = {round(i * last / (panels - 2)) for i in range(panels - 1)} | {len(rows) - 1}
    figure = Picture(figsize=(8, 1.0 * len(chosen) + 0.9), layout="constrained")
    every = figure.subplots(len(chosen), sharex=True, squeeze=False)[:, 0]
    for axes, index in zip(every, sorted(chosen), strict=True):
        row = rows[index]
        edges = [
            row["low"] + i * (row["high"] - row["low"]) / len(row["counts"])
            for i in range(len(row["counts"]) + 1)
        ]
        axes.stairs(row["counts"], edges, fill=True, color=_BLUE)
        axes.set_yticks([])
        axes.spines[["left", "right", "top"]].set_visible(False)
        text = f"epoch {row['epoch'] + 1}" if row["epoch"] >= 0 else "start"
        axes.set_ylabel(text, rotation=0, ha="right", va="center")
        if row.get("on_grid") is not None:
            axes.text(1.0, 0.8, f"{100 * row['on_grid']:.0f} % on the grid", fontsize=8, ha="right",
                      transform=axes.transAxes)  # fmt: skip
    every[-1].set_xlabel("weight / largest level of its channel")
    every[0].set_title("the quantized weights, each panel to its own height", loc="left",
                       fontsize=10)  # fmt: skip
    return figure


def histograms(panels):
    """A histogram for each (name, weights, levels), with the levels as lines."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Picture(figsize=(3 * columns, 2 * rows), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, values, levels) in zip(every, panels, strict=False):
        axes.hist(values.ravel(), bins=121, color=_BLUE)
        # Of very many levels only a sample, or lines are all one sees.
        for level in levels[:: max(1, levels.size // _MAX_LINES)]:
            axes.axvline(level, color=_ORANGE, linewidth=0.8, alpha=0.6)
        axes.set_title(name, fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
    for axes in every[len(panels) :]:
        axes.set_visible(False)
    return figure
