"""Making the paper: what is not there yet is run, then every figure is drawn from what is there.

A figure that was left out keeps its data, unless more of its runs at the same scale are there by now; one that goes
beyond the paper keeps them, too, and where they name their runs adds to what they know of runs whose directories are
gone.
"""

import importlib
import itertools
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flossing.experiment.config import AnyConfig
from flossing.experiment.figures import save_figure
from flossing.experiment.files import write_atomically
from flossing.experiment.paper.contract import Calculation, Data, FigureRoom, Scale
from flossing.experiment.paper.kept import known_runs, with_kept
from flossing.experiment.paper.results import Folder, by_name
from flossing.experiment.paper.results_page import page
from flossing.experiment.paper.scales import SIZES
from flossing.experiment.spec import Point, Spec, describe
from flossing.experiment.sweep import check_points, has_finished, held, run_job
from flossing.experiment.workers import Job, carry_out, check_workers, say

NAMES = (
    "fig1",
    "fig2",
    "fig3",
    "fig4",
    "surrogate",
    "supplement_k",
    "supplement_window",
    "supplement_orthogonal",
    "supplement_lstm",
    "supplement_time",
)
"""The figures of the paper, in the order of the page: each the module of this name."""

FURTHER = ("frontier", "beyond", "limits", "larger", "signal", "capacity")
"""What goes beyond the paper: hundreds of runs of up to 10,000 epochs, made when asked for. Those that its data know by
name are not made again."""

ALL = (*NAMES, *FURTHER)


def make_paper(
    scale: Scale,
    out: Path | str,
    *,
    only: Sequence[str] = NAMES,
    workers: int | None = None,
    scheduler: str | None = None,
    console: Console,
) -> int:
    """Make what is missing for the figures `only`, then write all pictures, data and RESULTS.md to `out`.

    `workers` and `scheduler` are those of [`sweep`][flossing.experiment.sweep.sweep]. Returns how many runs and
    calculations failed. Raises ValueError for a name or scale that there is none of, or a directory that is in use or
    holds something else; KeyboardInterrupt after Ctrl-C, with all that was done kept.
    """
    check_names(scale, only)
    check_workers("paper", workers, scheduler)
    out = Path(out).absolute()
    rooms = {name: room(name) for name in ALL}
    with held(out, "paper", "data", ["runs", "calculations"]):
        folder = Folder(out)
        failures = _make_missing(folder, [rooms[name] for name in only], scale, workers, scheduler, console)
        for name, figure in rooms.items():
            keep_data(folder, figure, scale, chosen=name in only)
        write_page(folder, rooms)
    say(console, f"figures     {out}\nresults     {out / 'RESULTS.md'}")
    return len(failures)


def side_by_side(configs: Sequence[AnyConfig], workers: int) -> list[AnyConfig]:
    """Configurations in an order in which workers are at different kinds of runs, each at its own: runs that differ by
    their seeds alone are compiled once in a process, and two that compile the same at once do it twice."""
    kinds: dict[str, list[AnyConfig]] = {}
    for config in configs:
        kinds.setdefault(config.with_values(seed=0).digest, []).append(config)
    columns = list(kinds.values())
    blocks = [columns[first : first + workers] for first in range(0, len(columns), workers)]
    rows = [row for block in blocks for row in itertools.zip_longest(*block)]
    return [config for row in rows for config in row if config is not None]


def check_names(scale: str, only: Sequence[str]):
    """Raise ValueError for a scale or a figure that there is none of."""
    if scale not in SIZES:
        raise ValueError(f"scale must be {', '.join(SIZES)}, got scale={scale!r}")
    for name in only:
        if name not in ALL:
            raise ValueError(f"only must name figures of {', '.join(ALL)}, got {name!r}")


def room(name: str) -> FigureRoom:
    """The figure of this name."""
    found = importlib.import_module(f"flossing.experiment.paper.{name}")
    assert isinstance(found, FigureRoom) and found.NAME == name
    return found


def keep_data(folder: Folder, figure: FigureRoom, scale: Scale, *, chosen: bool):
    """Write data/<name>.json from what is there; a figure that was not chosen may keep what it has."""
    specs, calculations = figure.specs(scale), figure.calculations(scale)
    kept = _kept(folder, figure, scale)
    missing_runs = {spec.name: _missing(folder, spec, known_runs(kept)) for spec in specs}
    missing_calculations = [each.name for each in calculations if folder.calculation(each) is None]
    wanted = sum(len(spec.points()) for spec in specs), len(calculations)
    made = wanted[0] - sum(map(len, missing_runs.values())), wanted[1] - len(missing_calculations)
    before = folder.read_data(figure.NAME)
    if before is not None:
        more = sum(made) - before["runs"]["made"] - before["calculations"]["made"]
        if before["scale"] != scale:
            keeps = not chosen
        else:
            keeps = more < 0 and figure.NAME in FURTHER or more <= 0 and not chosen
        if keeps:
            return
    content = {
        "figure": figure.NAME,
        "scale": scale,
        "runs": {"made": made[0], "wanted": wanted[0]},
        "calculations": {"made": made[1], "wanted": wanted[1]},
        "missing": [*_tell(missing_runs, specs), *missing_calculations],
        "circumstances": circumstances(),
        "data": with_kept(kept, figure.collect(folder, scale), [p.config.digest for s in specs for p in s.points()]),
    }
    folder.write_data(figure.NAME, content)


def write_page(folder: Folder, rooms: Mapping[str, FigureRoom]):
    """Draw every figure and write RESULTS.md, from the data alone."""
    contents = {name: folder.read_data(name) for name in rooms}
    there = {name: content for name, content in contents.items() if content is not None}
    for name, content in there.items():
        if content["runs"]["made"] + content["calculations"]["made"]:
            save_figure(rooms[name].draw(content["data"]), folder.path / f"{name}.png")
    write_atomically(folder.path / "RESULTS.md", page(rooms, there).encode())


def circumstances() -> dict[str, Any]:
    """By what, and on what, data were made."""
    packages = ("flossing", "jax", "numpy")
    return {**{name: version(name) for name in packages}, "machine": platform.machine(), "cores": os.cpu_count()}


def _make_missing(
    folder: Folder,
    figures: Sequence[FigureRoom],
    scale: Scale,
    workers: int | None,
    scheduler: str | None,
    console: Console,
) -> dict[str, str]:
    from flossing.experiment.process import cores

    points: dict[str, Point] = {}
    missing: set[str] = set()
    for figure, spec in ((each, spec) for each in figures for spec in each.specs(scale)):
        check_points(spec.name, spec.points(), here=scheduler is None)
        points |= {point.config.digest: point for point in spec.points()}
        known = known_runs(_kept(folder, figure, scale))
        missing |= {point.config.digest for point in _missing(folder, spec, known)}
    calculations = by_name(each for figure in figures for each in figure.calculations(scale))
    # Calculations first: some are longer than any run, and one such at the end would keep the other workers idle.
    jobs: dict[str, Job] = {
        f"calculations/{name}": folder.job(calculation)
        for name, calculation in calculations.items()
        if folder.calculation(calculation) is None
    }
    waiting = [point.config for digest, point in points.items() if digest in missing]
    for config in side_by_side(waiting, cores() if workers is None else workers):
        jobs[f"runs/{config.digest}"] = run_job(folder.path, config)
    done = len(points) + len(calculations) - len(jobs)
    told = f"{len(points)} runs and {len(calculations)} calculations, {done} finished before"
    say(console, f"paper at scale {scale}: {told}\ndirectory   {folder.path}")
    if not jobs:
        return {}
    failures = carry_out(jobs, workers=workers, scheduler=scheduler, console=console)
    if failures:
        console.print(_table(failures, points, calculations))
    return failures


def _kept(folder: Folder, figure: FigureRoom, scale: Scale) -> Data:
    content = folder.read_data(figure.NAME) if figure.NAME in FURTHER else None
    return content["data"] if content is not None and content["scale"] == scale else {}


def _missing(folder: Folder, spec: Spec, known: Collection[str]) -> list[Point]:
    return [p for p in spec.points() if p.config.digest not in known and not has_finished(folder.path, p.config)]


def _tell(missing: Mapping[str, Sequence[Point]], specs: Sequence[Spec]) -> list[str]:
    # One line for runs that differ by their seeds alone.
    lines = []
    for spec in specs:
        if len(missing[spec.name]) == len(spec.points()):
            lines.append(f"{spec.name}: all {len(spec.points())} runs")
            continue
        seeds: dict[str, list[Any]] = {}
        for point in missing[spec.name]:
            values = {field: value for field, value in point.values.items() if field != "seed"}
            seeds.setdefault(describe(values), []).append(point.values["seed"])
        lines += [f"{spec.name}: {told}, seed {', '.join(map(str, each))}" for told, each in seeds.items()]
    return lines


def _table(failures: Mapping[str, str], points: Mapping[str, Point], calculations: Mapping[str, Calculation]) -> Table:
    table = Table(title=f"{len(failures)} failed", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("what", "why"):
        table.add_column(column, overflow="fold")
    table.add_column("place", no_wrap=True)
    for place, error in failures.items():
        kind, _, name = place.partition("/")
        table.add_row(describe(points[name].values) if kind == "runs" else name, error, place)
    return table
