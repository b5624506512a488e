"""Results on their way out: a table on standard output, NAME.json and NAME.png in the output folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Chart", "Result", "Table", "figure", "show", "write"]


@dataclass
class Table:
    """Rows of text under a head."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> list[str]:
        """Return the table in Markdown, columns aligned.

        It is pasted into README.md as it is.
        """
        rows = [list(self.head), *map(list, self.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.head))]

        def line(cells: Sequence[str]) -> str:
            padded = [
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ]
            return f"| {' | '.join(padded)} |"

        rule = [("-" * (width - 1) + ":") if column else "-" * width for column, width in enumerate(widths)]
        return [self.title, "", line(rows[0]), line(rule), *map(line, rows[1:])]


@dataclass
class Chart:
    """Bars by group, or lines over x."""

    title: str
    y_label: str
    series: dict[str, list[float | None]]  # name -> a value for each x; None where there is none
    x: Sequence[Any]  # labels of groups, or numbers
    x_label: str = ""
    logarithmic: bool = False  # both axes of lines, the y axis of bars
    linear_y: bool = False  # the y axis stays linear all the same
    bars: bool = False
    width: float = 5.2  # inches


@dataclass
class Result:
    """What one benchmark found."""

    name: str
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    passed: bool = True  # the benchmark's own targets, where it has any


def figure(value: float, unit: str = "") -> str:
    """Return three significant digits, without an exponent."""
    if value >= 1000:
        text = f"{value:,.0f}"
    elif value >= 100:
        text = f"{value:.0f}"
    else:
        text = f"{value:.2f}" if value < 10 else f"{value:.1f}"
    return f"{text} {unit}".strip()


def show(result: Result) -> None:
    """Print the tables, each with what it was measured on (data["machine"]), and the notes."""
    about = ", ".join(f"{key}: {value}" for key, value in result.data.get("machine", {}).items())
    for table in result.tables:
        print("\n".join([*table.lines(), *(["", about] if about else [])]), end="\n\n")
    for note in result.notes:
        print(f"- {note}")
    print(flush=True)


def write(result: Result, folder: Path) -> list[Path]:
    """Write the JSON, and the charts where matplotlib is installed.

    :param result: what to write.
    :param folder: created if need be.
    :return: the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "benchmark": result.name,
        "tables": [{"title": table.title, "head": table.head, "rows": table.rows} for table in result.tables],
        "notes": result.notes,
        **result.data,
    }
    files = [folder / f"{result.name}.json"]
    files[0].write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if result.charts:
        try:
            import matplotlib as mpl
        except ImportError:
            print('no plots: they need matplotlib: pip install -e ".[bench]"')
            return files
        mpl.use("Agg")
        files.append(folder / f"{result.name}.png")
        _draw(result.charts, files[-1])
    return files


def _draw(charts: Sequence[Chart], path: Path) -> None:
    from matplotlib import pyplot as plt

    widths = [chart.width for chart in charts]
    drawing, axes = plt.subplots(
        1,
        len(charts),
        figsize=(sum(widths), 3.8),
        width_ratios=widths,
        layout="constrained",
        squeeze=False,
    )
    for chart, ax in zip(charts, axes[0], strict=True):
        for number, (name, values) in enumerate(chart.series.items()):
            if chart.bars:
                width = 0.8 / len(chart.series)
                places = [place - 0.4 + width * (number + 0.5) for place in range(len(chart.x))]
                bars = ax.bar(places, [value or 0 for value in values], width, label=name)
                labels = [figure(value) if value is not None else "" for value in values]
                ax.bar_label(bars, labels, fontsize=7)
            else:
                points = [(x, y) for x, y in zip(chart.x, values, strict=True) if y is not None]
                ax.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=name)
        if chart.bars:
            ax.set_xticks(range(len(chart.x)), chart.x)
        elif chart.logarithmic:
            ax.set_xscale("log", base=2)
            ax.set_xticks(chart.x, [f"{x:,}" for x in chart.x])
            ax.minorticks_off()
        if chart.logarithmic and not chart.linear_y:
            ax.set_yscale("log")
        ax.set(title=chart.title, ylabel=chart.y_label, xlabel=chart.x_label)
        ax.grid(axis="y", alpha=0.3)
        ax.set_axisbelow(True)
        if len(chart.series) > 1:
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "ncols": 2} if chart.bars else {}
            ax.legend(fontsize=8, **below)
    drawing.savefig(path, dpi=130)
    plt.close(drawing)
