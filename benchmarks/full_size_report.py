"""The tables and the picture of `benchmarks.full_size`."""

import numpy as np

from tf_proxquant import files

TABLE_HEAD = (
    "| | accuracy | .tflite | signs changed | `fast`, kB | `small`, kB | float, kB | seeds |\n"
    "|---|---|---|---|---|---|---|---|"
)
COLORS = {
    "memory": "#0072B2",
    "memory .998": "#56B4E9",
    "BinaryConnect": "#D55E00",
    "PARQ": "#009E73",
    "BinaryRelax": "#CC79A7",
    "ProxQuant as published": "#E69F00",
    "full precision": "#444444",
}
MARKERS = {"binary": "o", "ternary": "^", "2 bits": "s"}
TITLES = {
    "cifar10": "CIFAR-10, ResNet-20",
    "fashion_mnist": "Fashion-MNIST, ResNet-8",
    "mobilenet": "CIFAR-10, MobileNetV2 .35",
}


def tables(results, rows):
    """Returns a table of every experiment: mean and spread over the seeds.

    Args:
      results: list of dicts, the lines of a file of results.
      rows: dict from names to `full_size.Row`, in their order.
    """
    lines = []
    groups = {(line["experiment"], line["epochs"]) for line in results}
    for experiment, epochs in sorted(groups):
        lines += [f"{experiment}, {epochs} epochs", "", TABLE_HEAD]
        chosen = [r for r in results if (r["experiment"], r["epochs"]) == (experiment, epochs)]
        for name in rows:
            own = [line for line in chosen if line["row"] == name]
            if own:
                lines.append(_table_row(name, own))
        lines.append("")
    return "\n".join(lines)


def _table_row(name, runs):
    def mean(column):
        return np.mean([run[column] for run in runs])

    def accuracy(column):
        values = [run[column] for run in runs]
        spread = f" +- {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        return f"{mean(column):.4f}{spread}"

    sizes = [f"{mean(f'{c}_bytes') / 1000:.0f}" for c in ("fast", "small", "float")]
    cells = [accuracy("accuracy"), accuracy("tflite_accuracy"), f"{mean('sign_change'):.3f}"]
    return f"| {name} | {' | '.join(cells + sizes)} | {len(runs)} |"


def draw(results, rows, path):
    """Draws the accuracy of every row over the bytes of its file, one panel an experiment.

    A bar is the standard error of one accuracy on that many test images, a dashed line the mean
    accuracy of the warm starts. Methods stand side by side, a twenty-fifth of the bytes apart.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullLocator

    groups = sorted({(line["experiment"], line["epochs"]) for line in results})
    figure = Figure(figsize=(5.5 * len(groups), 4.6), layout="constrained")
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        chosen = [line for line in results if (line["experiment"], line["epochs"]) == group]
        for name in rows:
            own = [line for line in chosen if line["row"] == name]
            if own:
                _draw_row(axes, name, rows[name], own)
        warm = {r["seed"]: r["warm_start_accuracy"] for r in chosen if "warm_start_accuracy" in r}
        if warm:
            axes.axhline(np.mean([*warm.values()]), color="k", ls="--", lw=0.8)
        smallest = min(line["small_bytes"] for line in chosen)
        axes.set(xscale="log", xlim=(smallest / 2, 2 * chosen[0]["float_bytes"]))
        title = TITLES.get(group[0], group[0])
        axes.set_title(f"{title}: {group[1]} epochs, then {group[1]} more")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda size, _: f"{size / 1000:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("kilobytes of the .tflite: small; float for full precision")
        axes.set_ylabel("test accuracy of the last epoch")
        axes.grid(alpha=0.3)
    drawn = {line["row"] for line in results}
    methods = [m for m in COLORS if any(name.endswith(m) for name in drawn)]
    handles = [Line2D([], [], color=COLORS[name], lw=4, label=name) for name in methods]
    handles += [
        Line2D([], [], color="k", ls="", marker=marker, label=levels)
        for levels, marker in MARKERS.items()
        if any(name.startswith(levels) for name in drawn)
    ]
    if any(rows[name].ends for name in drawn):
        label = "first and last at 8 bits"
        handles.append(Line2D([], [], color="k", ls="", marker="o", mfc="w", label=label))
    handles.append(Line2D([], [], color="k", ls="--", lw=0.8, label="warm start"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _draw_row(axes, name, row, runs):
    method = name.rpartition(", ")[2]
    color, place = COLORS[method], list(COLORS).index(method) - (len(COLORS) - 1) / 2
    sizes = [run["small_bytes" if row.prox else "float_bytes"] * 1.04**place for run in runs]
    accuracies = np.array([run["accuracy"] for run in runs])
    images = np.array([run.get("test_images", 10_000) for run in runs])
    axes.errorbar(
        sizes, accuracies, np.sqrt(accuracies * (1 - accuracies) / images),
        marker=MARKERS[row.quantizer] if row.prox else "D", color=color, linestyle="",
        markersize=8, alpha=0.85, mfc="white" if row.ends else color, elinewidth=1, capsize=2,
    )  # fmt: skip
