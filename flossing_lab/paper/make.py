"""Make the paper: run what is missing, then draw every figure from the available results.

A figure that was not selected keeps its data, unless more of its runs at the same scale have finished since. Data that
name their runs stand for them: new results are merged with those of runs whose directories no longer exist, and a known
run is not made again. No figure exchanges its data for fewer results, of the same scale or of another.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flossing_lab.paper.analysis.merge import known_runs, merge_data
from flossing_lab.paper.contract import Calculation, Data, FigureModule, Scale
from flossing_lab.paper.figures import find_figures
from flossing_lab.paper.results import Folder, unique_by_name
from flossing_lab.paper.results_page import page
from flossing_lab.paper.scales import SIZES
from flossing_lab.runs.config import RunConfig
from flossing_lab.runs.files import write_atomically
from flossing_lab.runs.locks import locked
from flossing_lab.runs.plotting import save_figure
from flossing_lab.runs.provenance import brief_provenance
from flossing_lab.sweeps.spec import Point, Spec, describe
from flossing_lab.sweeps.sweep import check_points, has_finished, run_job
from flossing_lab.sweeps.workers import Job, check_workers, run_jobs, say

TINY = "Scale tiny, which only checks the machinery: networks of a few units, not of the sizes that are named here."


def make_paper(
    scale: Scale,
    out: Path | str,
    *,
    only: Sequence[str] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    console: Console,
) -> int:
    """Run what the figures `only` lack (by default those of the paper); write plots, data and RESULTS.md.

    `workers` and `scheduler` are those of [`sweep`][flossing_lab.sweeps.sweep.sweep]. Returns the number of failed
    runs and calculations. Raises ValueError for an unknown figure or scale, or for a directory that is in use or holds
    something else; KeyboardInterrupt after Ctrl-C, with all finished work stored.
    """
    figures = find_figures()
    only = [name for name, figure in figures.items() if figure.IN_PAPER] if only is None else only
    check_names(scale, only, figures)
    check_workers("paper", workers, scheduler)
    out = Path(out).absolute()
    with locked(out, "paper", "data", ["runs", "calculations"]):
        folder = Folder(out)
        wanted = [name for name in only if not _has_more(folder, figures[name], scale)]
        for name in {*only} - {*wanted}:
            say(console, f"{name} has more results of another scale, and keeps them: choose another --out")
        failures = _make_missing(folder, [figures[name] for name in wanted], scale, workers, scheduler, console)
        for name, figure in figures.items():
            if kept := keep_data(folder, figure, scale, chosen=name in wanted):
                say(
                    console,
                    f"{name} keeps its data of scale {kept}, which come from more results: choose another --out",
                )
        write_page(folder, figures)
    say(console, f"figures     {out}\nresults     {out / 'RESULTS.md'}")
    return len(failures)


def _has_more(folder: Folder, figure: FigureModule, scale: Scale) -> bool:
    """Whether the stored data of a figure are of another scale, from more results than this one has."""
    before = folder.read_data(figure.NAME)
    if before is None or before["scale"] == scale:
        return False
    wanted = sum(len(spec.points()) for spec in figure.specs(scale)) + len(figure.calculations(scale))
    return before["runs"]["made"] + before["calculations"]["made"] > wanted


def side_by_side(configs: Sequence[RunConfig], workers: int) -> list[RunConfig]:
    """Order configurations so that workers run different kinds at the same time. Runs that differ only in their seeds
    compile once per process; two workers that start the same kind together would both compile it."""
    kinds: dict[str, list[RunConfig]] = {}
    for config in configs:
        kinds.setdefault(config.with_values(seed=0).digest, []).append(config)
    columns = list(kinds.values())
    blocks = [columns[first : first + workers] for first in range(0, len(columns), workers)]
    rows = [row for block in blocks for row in itertools.zip_longest(*block)]
    return [config for row in rows for config in row if config is not None]


def check_names(scale: str, only: Sequence[str], figures: Collection[str]):
    """Raise ValueError for an unknown scale or figure."""
    if scale not in SIZES:
        raise ValueError(f"scale must be {', '.join(SIZES)}, got scale={scale!r}")
    for name in only:
        if name not in figures:
            raise ValueError(f"only must name figures of {', '.join(figures)}, got {name!r}")


def keep_data(folder: Folder, figure: FigureModule, scale: Scale, *, chosen: bool) -> str | None:
    """Write data/<name>.json from the available results; a figure that was not selected may keep its old data.

    Returns the scale of the data that a selected figure keeps, since they come from more results.
    """
    specs, calculations = figure.specs(scale), figure.calculations(scale)
    stored = _stored(folder, figure, scale)
    missing_runs = {spec.name: _missing(folder, spec, known_runs(stored)) for spec in specs}
    missing_calculations = [each.name for each in calculations if folder.calculation(each) is None]
    wanted = sum(len(spec.points()) for spec in specs), len(calculations)
    made = wanted[0] - sum(map(len, missing_runs.values())), wanted[1] - len(missing_calculations)
    before = folder.read_data(figure.NAME)
    if before is None and not chosen and not sum(made):
        return None
    if before is not None:
        more = sum(made) - before["runs"]["made"] - before["calculations"]["made"]
        is_same_scale = before["scale"] == scale
        if more < 0 or (not chosen and (more == 0 or not is_same_scale)):
            return before["scale"] if chosen else None
    content = {
        "figure": figure.NAME,
        "scale": scale,
        "runs": {"made": made[0], "wanted": wanted[0]},
        "calculations": {"made": made[1], "wanted": wanted[1]},
        "missing": [*_list_missing(missing_runs, specs), *missing_calculations],
        "provenance": brief_provenance(),
        "data": merge_data(stored, figure.collect(folder, scale), [p.config.digest for s in specs for p in s.points()]),
    }
    folder.write_data(figure.NAME, content)
    return None


def write_page(folder: Folder, figures: Mapping[str, FigureModule]):
    """Draw every figure and write RESULTS.md from the stored data alone."""
    contents = {name: folder.read_data(name) for name in figures}
    available = {name: content for name, content in contents.items() if content is not None}
    for name, content in available.items():
        if content["runs"]["made"] + content["calculations"]["made"]:
            figure = figures[name].draw(content["data"])
            if content["scale"] == "tiny":
                figure.set_layout_engine("constrained", rect=(0, 0.05, 1, 0.95))
                figure.text(0.995, 0.01, TINY, color="0.4", fontsize=8, ha="right")
            save_figure(figure, folder.path / f"{name}.png")
    write_atomically(folder.path / "RESULTS.md", page(figures, available).encode())


def _make_missing(
    folder: Folder,
    figures: Sequence[FigureModule],
    scale: Scale,
    workers: int | None,
    scheduler: str | None,
    console: Console,
) -> dict[str, str]:
    from flossing_lab.runs.process import cores

    points: dict[str, Point] = {}
    missing: set[str] = set()
    for figure, spec in ((each, spec) for each in figures for spec in each.specs(scale)):
        check_points(spec.name, spec.points(), here=scheduler is None)
        points |= {point.config.digest: point for point in spec.points()}
        known = known_runs(_stored(folder, figure, scale))
        missing |= {point.config.digest for point in _missing(folder, spec, known)}
    calculations = unique_by_name(each for figure in figures for each in figure.calculations(scale))
    # Calculations first: some take longer than any run, and a long one at the end would leave other workers idle.
    jobs: dict[str, Job] = {
        f"calculations/{name}": folder.job(calculation)
        for name, calculation in calculations.items()
        if folder.calculation(calculation) is None
    }
    waiting = [point.config for digest, point in points.items() if digest in missing]
    for config in side_by_side(waiting, cores() if workers is None else workers):
        jobs[f"runs/{config.digest}"] = run_job(folder.path, config)
    done = len(points) + len(calculations) - len(jobs)
    listed = f"{len(points)} runs and {len(calculations)} calculations, {done} finished before"
    say(console, f"paper at scale {scale}: {listed}\ndirectory   {folder.path}")
    if not jobs:
        return {}
    failures = run_jobs(jobs, workers=workers, scheduler=scheduler, console=console)
    if failures:
        console.print(_table(failures, points, calculations))
    return failures


def _stored(folder: Folder, figure: FigureModule, scale: Scale) -> Data:
    content = folder.read_data(figure.NAME)
    return content["data"] if content is not None and content["scale"] == scale else {}


def _missing(folder: Folder, spec: Spec, known: Collection[str]) -> list[Point]:
    return [p for p in spec.points() if p.config.digest not in known and not has_finished(folder.path, p.config)]


def _list_missing(missing: Mapping[str, Sequence[Point]], specs: Sequence[Spec]) -> list[str]:
    # One line for runs that differ only in their seeds.
    lines = []
    for spec in specs:
        if len(missing[spec.name]) == len(spec.points()):
            lines.append(f"{spec.name}: all {len(spec.points())} runs")
            continue
        seeds: dict[str, list[Any]] = {}
        for point in missing[spec.name]:
            values = {field: value for field, value in point.values.items() if field != "seed"}
            seeds.setdefault(describe(values), []).append(point.values["seed"])
        lines += [f"{spec.name}: {listed}, seed {', '.join(map(str, each))}" for listed, each in seeds.items()]
    return lines


def _table(failures: Mapping[str, str], points: Mapping[str, Point], calculations: Mapping[str, Calculation]) -> Table:
    table = Table(title=f"{len(failures)} failed", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("run or calculation", "error"):
        table.add_column(column, overflow="fold")
    table.add_column("directory", no_wrap=True)
    for place, error in failures.items():
        kind, _, name = place.partition("/")
        table.add_row(describe(points[name].values) if kind == "runs" else name, error, place)
    return table
