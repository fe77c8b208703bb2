"""Perform the missing runs on two cores, and write the table.

    python -m flossing_lab.comparison                      250 runs, about an hour; run it again to continue
    python -m flossing_lab.comparison --only xor,digits    these tasks only
    python -m flossing_lab.comparison --seeds 101,102      other seeds, to choose settings; the table leaves them out
    python -m flossing_lab.comparison --quick              a tiny version, to check that everything works; no table

Each run is a small file in runs/; results.json holds them all, and docs/comparison.md shows table.md.
"""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flossing_lab.comparison.runs import CONDITIONS, FORMAT, is_done, run_file
from flossing_lab.comparison.settings import FULL, NETWORKS, QUICK, SEEDS, TASKS
from flossing_lab.comparison.table import markdown
from flossing_lab.runs.files import read_json, remove_temporary_files, write_atomically
from flossing_lab.runs.process import ONE_THREAD
from flossing_lab.runs.provenance import measured_on


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison; return the exit code, 1 if a process failed."""
    parser = argparse.ArgumentParser(
        prog="python -m flossing_lab.comparison",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(TASKS), help=f"tasks, from {','.join(TASKS)}")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="seeds of the runs")
    parser.add_argument("--workers", type=int, default=2, help="processes, with one thread each")
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="directory for runs/ and the results")
    parser.add_argument("--quick", action="store_true", help="a tiny version, to check that all works; writes no table")
    options = parser.parse_args(arguments)
    tasks = options.only.split(",")
    unknown = [name for name in tasks if name not in TASKS]
    if unknown:
        parser.error(f"only must name tasks of {', '.join(TASKS)}, got {unknown[0]!r}")
    if not all(seed.isdecimal() for seed in options.seeds.split(",")):
        parser.error(f"seeds must be numbers such as 1,2,3, got {options.seeds!r}")
    if options.workers < 1:
        parser.error(f"workers must be at least 1, got {options.workers}")

    console = Console()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    runs = options.out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    remove_temporary_files(runs)
    try:
        failures = make_runs(tasks, seeds, runs, options.workers, options.quick, console)
    finally:
        if not options.quick:
            write_table(options.out, console)
    for failure in failures:
        console.print(f"[red]{failure}[/]", highlight=False)
    return int(bool(failures))


def make_runs(
    tasks: list[str], seeds: list[int], folder: Path, workers: int, quick: bool, console: Console
) -> list[str]:
    """Perform the missing runs, one process per cell of the table; return one line per failed process."""
    settings = QUICK if quick else FULL
    wanted = list(itertools.product(tasks, NETWORKS, CONDITIONS, seeds))

    def done() -> int:
        return sum(is_done(run_file(folder, *run), run[0], settings) for run in wanted)

    def make(cell: tuple[str, str, str]) -> str | None:
        command = [sys.executable, "-m", "flossing_lab.comparison.runs", *cell, str(folder.resolve())]
        command += ["--seeds", ",".join(map(str, seeds)), *["--quick"] * quick]
        process = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True)
        if process.returncode == 0:
            return None
        return f"{' '.join(cell)}: {(process.stderr.strip().splitlines() or ['no output'])[-1]}"

    cells = [
        cell
        for cell in itertools.product(tasks, NETWORKS, CONDITIONS)
        if not all(is_done(run_file(folder, *cell, seed), cell[0], settings) for seed in seeds)
    ]
    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bars, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("runs", total=len(wanted), completed=done())
        with ThreadPoolExecutor(workers) as threads:
            futures = [threads.submit(make, cell) for cell in cells]
            try:
                while wait(futures, timeout=1).not_done:
                    progress.update(bar, completed=done())
            except KeyboardInterrupt:  # the terminal also sends it to the processes; start no more
                threads.shutdown(cancel_futures=True)
                raise
        progress.update(bar, completed=done())
    return [failure for future in futures if (failure := future.result())]


def write_table(out: Path, console: Console):
    """Collect the runs of the table that used the full settings, and render them."""
    runs = []
    for task, network, condition, seed in itertools.product(TASKS, NETWORKS, CONDITIONS, SEEDS):
        file = run_file(out / "runs", task, network, condition, seed)
        if is_done(file, task, FULL):
            found = read_json(file, FORMAT)
            runs.append({name: value for name, value in found.items() if name not in ("format", "settings")})
    if not runs:
        return
    tasks = {name: repr(task.make()) for name, task in TASKS.items()}
    made = measured_on(("flossing", "jax", "jaxlib", "numpy", "optax", "equinox"), cores=1)
    results = made | {"settings": dataclasses.asdict(FULL), "tasks": tasks}
    # One line per run, so that a changed run changes one line.
    lines = ",\n".join("  " + json.dumps(run, ensure_ascii=False) for run in runs)
    head = json.dumps(results, indent=1, ensure_ascii=False).removesuffix("\n}")
    write_atomically(out / "results.json", f'{head},\n "runs": [\n{lines}\n ]\n}}\n'.encode())
    write_atomically(out / "table.md", page(read_results(out)).encode())
    console.print(f"table  {out / 'table.md'}", highlight=False)


def read_results(out: Path) -> dict[str, Any]:
    """The results of all runs so far."""
    file = out / "results.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else {"runs": []}


def page(results: dict[str, Any]) -> str:
    """The tables, as `docs/comparison.md` includes them."""
    head = "<!-- written by python -m flossing_lab.comparison -->"
    if not results["runs"]:
        return f"{head}\n\nNot run yet: `python -m flossing_lab.comparison`.\n"
    made, jax = results["measured"][:10], results["versions"]["jax"]
    summary = f"{len(results['runs'])} runs, {made}, a core of {results['processor']} each, JAX {jax}."
    return f"{head}\n\n{summary}\n\n{markdown(results['runs'])}\n"


if __name__ == "__main__":
    sys.exit(main())
