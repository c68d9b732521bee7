"""Tables of what a GPU showed, from the files that ``python -m training.bench.device`` wrote there.

``results/device`` holds a folder for each run, in the order in which they were made. Times in one table are of one run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from training.bench.markdown import table

Row = Mapping[str, Any]
OURS = ("JPEGLoss", "SRLoss", "DenoiseLoss")
VGG = "VGG16, 4 blocks"
PAGES = {  # of docs, and the tables that each holds
    "cost.md": ["device losses"],
    "kernels.md": ["device values", "device plain", "device joined", "device tiles"],
    "kernels_figures.md": ["device updates", "device recipes"],
}


def sections(folder: Path) -> dict[str, str]:
    """The tables by name."""
    runs = [run for run in sorted(folder.iterdir()) if run.is_dir()]

    def latest(stage: str, part: str) -> list[Row]:
        """Rows of a part from the last run that finished any; without those of which a row says why it is missing."""
        for run in reversed(runs):
            file = run / f"{stage}.json"
            rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
            if found := [row for row in rows if row["part"] == part and not row.keys() & {"skipped", "error"}]:
                return found
        raise ValueError(f"no run in {folder} has rows of {stage}.{part}")

    return {
        "device losses": _losses(latest("losses", "fused")),
        "device plain": _plain(latest("losses", "eager"), latest("losses", "graph")),
        "device joined": _joined(latest("losses", "joined")),
        "device tiles": _tiles(latest("losses", "tiles")),
        "device values": _values(latest("values", "errors"), latest("values", "fused")),
        "device recipes": _recipes([row for task in ("sr", "denoise", "jpeg") for row in latest("recipes", task)]),
        "device updates": _updates(latest("updates", "times")),
    }


def _losses(rows: list[Row]) -> str:
    """Milliseconds launched one by one and from a CUDA graph, and memory."""
    head = ["", *OURS, VGG, "AlexNet", f"{VGG} / JPEGLoss", "memory, MB: JPEGLoss, VGG16, AlexNet"]

    def line(of: Mapping[str, Row]) -> list[str]:
        ours, vgg = of["JPEGLoss"], of[VGG]
        ratio = f"**{vgg['ms'] / ours['ms']:.1f}, {vgg['ms_in_a_graph'] / ours['ms_in_a_graph']:.1f}**"
        memory = ", ".join(f"{of[name]['megabytes']:.0f}" for name in ("JPEGLoss", VGG, "AlexNet"))
        return [*(_both(of[name]) for name in (*OURS, VGG, "AlexNet")), ratio, memory]

    return _by_case(head, rows, line)


def _plain(eager: list[Row], graph: list[Row]) -> str:
    head = ["", *OURS, VGG, f"{VGG} / JPEGLoss", "memory, MB: JPEGLoss, VGG16"]
    in_graph = {_named(row): row["ms"] for row in graph}
    rows = [{**row, "ms_in_a_graph": in_graph[_named(row)]} for row in eager]

    def line(of: Mapping[str, Row]) -> list[str]:
        ours, vgg = of["JPEGLoss"], of[VGG]
        ratio = f"{vgg['ms'] / ours['ms']:.1f}, {vgg['ms_in_a_graph'] / ours['ms_in_a_graph']:.1f}"
        memory = f"{ours['megabytes']:.0f}, {vgg['megabytes']:.0f}"
        return [*(_both(of[name]) for name in (*OURS, VGG)), ratio, memory]

    return _by_case(head, rows, line)


def _joined(rows: list[Row]) -> str:
    named = [{**row, "loss": "joined" if row["joined"] else "one by one"} for row in rows]
    return _by_case(
        ["", "small levels joined", "one by one"], named, lambda of: [_both(of["joined"]), _both(of["one by one"])]
    )


def _tiles(rows: list[Row]) -> str:
    """Of those with the usual memory: milliseconds in a graph."""
    most = max(row["together"] for row in rows)
    cases = sorted({(row["precision"], *row["shape"]) for row in rows})
    found: dict[tuple[int, ...], dict[tuple[Any, ...], float]] = {}
    for row in rows:
        if row["together"] == most:
            tiles = tuple(row["tiles"][name] for name in ("height", "width", "warps", "stages"))
            case = (row["precision"], *row["shape"])
            found.setdefault(tiles, {})[case] = row["ms_in_a_graph"]
    head = ["pixels; warps, stages", *(f"{_shape(shape)}, {_precision(name == 'tf32')}" for name, *shape in cases)]
    lines = [
        [f"{high} x {wide}; {warps}, {stages}", *(f"{of[case]:.2f}" for case in cases)]
        for (high, wide, warps, stages), of in sorted(found.items())
    ]
    return table(head, lines)


def _values(plain: list[Row], fused: list[Row]) -> str:
    by_kernels = {_named(row): row for row in fused}
    head = ["", "images", "value: plain torch", "kernels", "gradient: plain torch", "kernels"]
    lines = []
    for row in plain:
        other = by_kernels.get(_named(row))
        errors = [
            f"{of[name]:.0e}" if of is not None else "not measured"
            for name in ("error_of_the_value", "error_of_the_gradient")
            for of in (row, other)
        ]
        lines.append([f"{row['loss']}, {_precision(row['tf32'])}", _shape(row["shape"]), *errors])
    return table(head, lines)


def _recipes(rows: list[Row]) -> str:
    head = ["recipe", "updates of a critic", "seconds", "largest difference to the released loss"]
    return table(
        head, [[row["task"], f"{row['steps']}", f"{row['seconds']:.1f}", f"{row['difference']:.1%}"] for row in rows]
    )


def _updates(rows: list[Row]) -> str:
    sizes = sorted({tuple(row["size"]) for row in rows})
    found: dict[str, dict[tuple[int, ...], Row]] = {}
    for row in rows:
        found.setdefault(row["update"], {})[tuple(row["size"])] = row
    lines = [
        [name, *(f"{of[size]['ms']:.2f} ms, {of[size]['megabytes']:.0f} MB" if size in of else "" for size in sizes)]
        for name, of in found.items()
    ]
    return table(["", *(f"{height} x {width}" for height, width in sizes)], lines)


def _by_case(head: list[str], rows: Iterable[Row], line: Callable[[Mapping[str, Row]], list[str]]) -> str:
    """A line for each precision and shape."""
    cases: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(_case(row), {})[row["loss"]] = row
    return table(
        head, [[f"{_shape(shape)}, {_precision(allowed)}", *line(of)] for (allowed, *shape), of in cases.items()]
    )


def _case(row: Row) -> tuple[Any, ...]:
    return (row["tf32"], *row["shape"])


def _named(row: Row) -> tuple[Any, ...]:
    return (*_case(row), row["loss"])


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def _precision(tf32: bool) -> str:
    return "TF32" if tf32 else "float32"


def _both(row: Row) -> str:
    return f"{row['ms']:.2f}, {row['ms_in_a_graph']:.2f}"
