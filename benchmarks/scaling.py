"""How time and memory of value and gradient grow with N, k and T: `python -m benchmarks.scaling`, `make bench-scaling`.

QR after every step and no rematerialisation, so that all sizes do the same kind of work. Time should scale as
T (N^2 k + N k^2), memory as T N k.
Writes scaling.png and scaling.json beside this file; `--quick` takes small sizes and writes nothing.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.__main__ import provenance
from benchmarks.turns import Turn, in_process

HERE = Path(__file__).parent
Size = tuple[int, int, int]

SERIES: dict[str, list[Size]] = {  # each in one of N, k, T, the other two fixed
    "N": [(units, 16, 100) for units in (32, 64, 128, 256, 512, 1024)],
    "k": [(256, k, 100) for k in (8, 16, 32, 64, 128, 256)],
    "T": [(128, 32, steps) for steps in (64, 128, 256, 512, 1024, 2048)],
}
QUICK: dict[str, list[Size]] = {
    "N": [(units, 4, 10) for units in (8, 16, 32)],
    "k": [(16, k, 10) for k in (2, 4, 8)],
    "T": [(8, 4, steps) for steps in (8, 16, 32)],
}
FITTED = 3
"""Exponents are fitted to this many of the largest sizes; at small sizes the overhead of a step dominates."""


def work(size: Size) -> float:
    """Operations for value and gradient, up to a factor."""
    units, k, steps = size
    return steps * (units**2 * k + units * k**2)


def kept(size: Size) -> float:
    """Values stored for the backward pass, up to a factor."""
    units, k, steps = size
    return steps * units * k


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent of y as a power of x, by least squares over the last `FITTED` points."""
    return float(np.polyfit(np.log(x[-FITTED:]), np.log(y[-FITTED:]), 1)[0])


def measure(turn: Turn, *, sizes: list[Size], rounds: int) -> dict[str, list[float]]:
    """A contender: `seconds` for value and gradient at each size, median over `rounds`, and `bytes` of memory."""
    import jax
    import jax.numpy as jnp

    import flossing as fl
    from benchmarks import ours, starts
    from flossing._runtime.threads import one_lapack_thread

    programs, found = [], {"seconds": [], "bytes": []}
    for units, k, steps in sizes:
        numbers = starts.flossing_start(units, k)
        cell = ours.cell_of(numbers)
        options = {"state": jnp.asarray(numbers["h"]), "basis": numbers["basis"], "where": ours.flossed_leaves}
        options |= {"interval": 1, "rematerialise": False, "optimiser": ours.keep_gradient()}
        options |= {"loss": fl.losses.exponents}
        flossing = fl.Flossing(cell, ours.random_bits(steps), **options)
        arguments = flossing, cell, flossing.init(cell), jax.random.key(1)
        compiled = ours.update_once().lower(*arguments).compile()
        found["bytes"].append(compiled.compiled.memory_analysis().temp_size_in_bytes)
        jax.block_until_ready(compiled(*arguments)[2].loss)
        programs.append((compiled, arguments))
    turn()
    times: list[list[float]] = [[] for _ in sizes]
    for _ in range(rounds):
        with one_lapack_thread():
            for (compiled, arguments), seen in zip(programs, times, strict=True):
                begin = time.perf_counter()
                jax.block_until_ready(compiled(*arguments)[2].loss)
                seen.append(time.perf_counter() - begin)
        turn()
    found["seconds"] = [statistics.median(seen) for seen in times]
    return found


def collect(series: dict[str, list[Size]], rounds: int) -> dict[str, dict]:
    """The measurements by variable, with fitted and expected exponents."""
    sizes = [size for line in series.values() for size in line]
    found = in_process("benchmarks.scaling:measure", sizes=sizes, rounds=rounds)
    lines, first = {}, 0
    for index, (variable, points) in enumerate(series.items()):
        part = slice(first, first + len(points))
        first += len(points)
        x = [size[index] for size in points]
        line = {"sizes": points, "x": x, "seconds": found["seconds"][part], "bytes": found["bytes"][part]}
        for quantity, formula in (("seconds", work), ("bytes", kept)):
            line[f"{quantity}_exponent"] = slope(x, line[quantity])
            line[f"{quantity}_expected"] = slope(x, [formula(size) for size in points])
        lines[variable] = line
    return lines


def draw(lines: dict[str, dict]):
    """The figure: time (top) and memory (bottom) against N, k and T."""
    from matplotlib.figure import Figure

    from flossing_lab.runs.plotting import COLOURS, DARK

    figure = Figure(figsize=(10.5, 6), layout="constrained")
    figure.suptitle("One flossing epoch, value and gradient, QR after every step", fontsize=12, color=DARK)
    rows = (("seconds", "time (s)", 1.0, "before_and_during"), ("bytes", "memory (MiB)", 2.0**-20, "before"))
    for (quantity, label, unit, colour), panels in zip(rows, figure.subplots(2, 3), strict=True):
        for axes, (variable, line) in zip(panels, lines.items(), strict=True):
            x, y = np.asarray(line["x"]), np.asarray(line[quantity]) * unit
            axes.plot(x, y, color=COLOURS[colour], marker="o", ms=4, lw=1.8)
            expected, fitted = line[f"{quantity}_expected"], line[f"{quantity}_exponent"]
            end = slice(-FITTED, None)
            axes.plot(x[end], y[-1] * (x[end] / x[-1]) ** expected, color=COLOURS["none"], ls="--", lw=1)
            axes.set(xscale="log", yscale="log", xlabel=f"{variable}   ({_fixed(variable, line['sizes'][0])})")
            axes.set_xticks(x, [str(value) for value in x])
            axes.minorticks_off()
            axes.set_title(f"exponent {fitted:.2f}, expected {expected:.2f}", loc="left", fontsize=10)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
        panels[0].set_ylabel(label)
    return figure


def _fixed(variable: str, size: Size) -> str:
    return ", ".join(f"{name} = {value}" for name, value in zip("NkT", size, strict=True) if name != variable)


def main():
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes; writes nothing")
    options = parser.parse_args()
    measured = provenance()
    lines = collect(QUICK, 2) if options.quick else collect(SERIES, 5)
    for variable, line in lines.items():
        for quantity, name in (("seconds", "time"), ("bytes", "memory")):
            fitted, expected = line[f"{quantity}_exponent"], line[f"{quantity}_expected"]
            print(f"{name:6} against {variable}: exponent {fitted:.2f}, expected {expected:.2f}")
    figure = draw(lines)
    if not options.quick:
        from flossing_lab.runs.plotting import save_figure

        save_figure(figure, HERE / "scaling.png")
        (HERE / "scaling.json").write_text(json.dumps(measured | {"series": lines}, indent=1) + "\n", "utf-8")
        print(f"picture {HERE / 'scaling.png'}")


if __name__ == "__main__":
    main()
