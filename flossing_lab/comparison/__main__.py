"""Perform the missing runs of a protocol on two cores, and write its table.

    python -m flossing_lab.comparison writing                   700 runs, about four hours; run it again to continue
    python -m flossing_lab.comparison writing --networks "GRU"  these networks only; --only and --arms likewise
    python -m flossing_lab.comparison writing --seeds 101,102   other seeds, to choose settings; not in the table
    python -m flossing_lab.comparison writing --quick           a tiny version, to check that everything works; no table

Each run is a small file in runs/; results.json holds them all, also to continue from, and the documentation shows
table.md.
"""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flossing_lab.comparison import solved
from flossing_lab.comparison.protocol import Protocol
from flossing_lab.comparison.protocols import PROTOCOLS
from flossing_lab.comparison.runs import FORMAT, is_done, run_file
from flossing_lab.runs.files import read_json, remove_temporary_files, write_atomically, write_json
from flossing_lab.runs.process import ONE_THREAD
from flossing_lab.runs.provenance import measured_on


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison; return the exit code, 1 if a process failed."""
    parser = argparse.ArgumentParser(
        prog="python -m flossing_lab.comparison",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("protocol", choices=PROTOCOLS, help="what is compared")
    parser.add_argument("--only", metavar="TASKS", help="only these tasks, separated by commas")
    parser.add_argument("--networks", help="only these networks, separated by semicolons")
    parser.add_argument("--arms", help="only these arms, separated by commas")
    parser.add_argument("--seeds", help="other seeds than those of the protocol, separated by commas")
    parser.add_argument("--workers", type=int, default=2, help="processes, with one thread each")
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="directory for the runs and the results")
    parser.add_argument("--quick", action="store_true", help="a tiny version, to check that all works; writes no table")
    options = parser.parse_args(arguments)
    protocol = PROTOCOLS[options.protocol]
    if options.seeds is not None and not all(seed.isdecimal() for seed in options.seeds.split(",")):
        parser.error(f"seeds must be numbers such as 1,2,3, got {options.seeds!r}")
    if options.workers < 1:
        parser.error(f"workers must be at least 1, got {options.workers}")
    try:
        wanted = {
            "tasks": chosen("only", options.only, protocol.tasks, ","),
            "networks": chosen("networks", options.networks, protocol.networks, ";"),
            "arms": chosen("arms", options.arms, protocol.arms, ","),
            "seeds": protocol.seeds if options.seeds is None else tuple(map(int, options.seeds.split(","))),
        }
    except ValueError as error:
        parser.error(str(error))

    console = Console()
    out = options.out / protocol.folder / ("quick" if options.quick else "")
    runs = out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    remove_temporary_files(runs)
    if not options.quick:
        restore(protocol, out)
    subset = dataclasses.replace(protocol, **wanted)
    try:
        failures = make_runs(options.protocol, subset, runs, options.workers, options.quick, console)
    finally:
        if not options.quick:
            write_table(protocol, out, console)
    for failure in failures:
        console.print(f"[red]{failure}[/]", highlight=False)
    return int(bool(failures))


def chosen(argument: str, text: str | None, known: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """The entries of `known` that the text lists, all by default; ValueError for an unknown name."""
    names = list(known) if text is None else [name.strip() for name in text.split(separator)]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{argument} must name some of {separator.join(known)}, got {unknown[0]!r}")
    return {name: known[name] for name in names}


def make_runs(name: str, protocol: Protocol, folder: Path, workers: int, quick: bool, console: Console) -> list[str]:
    """Perform the missing runs, one process per cell of the table; return one line per failed process."""
    protocol = protocol.quick() if quick else protocol
    cells = list(itertools.product(protocol.tasks, protocol.networks, protocol.arms))

    def missing(cell: tuple[str, str, str]) -> list[int]:
        return [seed for seed in protocol.seeds if not is_done(run_file(folder, *cell, seed), protocol, *cell)]

    def done() -> int:
        return len(cells) * len(protocol.seeds) - sum(len(missing(cell)) for cell in cells)

    def make(cell: tuple[str, str, str]) -> str | None:
        command = [sys.executable, "-m", "flossing_lab.comparison.runs", name, *cell, str(folder.resolve())]
        command += ["--seeds", ",".join(map(str, protocol.seeds)), *["--quick"] * quick]
        process = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True)
        if process.returncode == 0:
            return None
        return f"{' '.join(cell)}: {(process.stderr.strip().splitlines() or ['no output'])[-1]}"

    started = [cell for cell in cells if missing(cell)]
    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bars, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("runs", total=len(cells) * len(protocol.seeds), completed=done())
        with ThreadPoolExecutor(workers) as threads:
            futures = [threads.submit(make, cell) for cell in started]
            try:
                while wait(futures, timeout=1).not_done:
                    progress.update(bar, completed=done())
            except KeyboardInterrupt:  # the terminal also sends it to the processes; start no more
                threads.shutdown(cancel_futures=True)
                raise
        progress.update(bar, completed=done())
    return [failure for future in futures if (failure := future.result())]


def write_table(protocol: Protocol, out: Path, console: Console):
    """Collect the runs of the table that used the settings of the protocol, and render them."""
    runs = []
    for task, network, arm, seed in itertools.product(protocol.tasks, protocol.networks, protocol.arms, protocol.seeds):
        file = run_file(out / "runs", task, network, arm, seed)
        if is_done(file, protocol, task, network, arm):
            found = read_json(file, FORMAT)
            runs.append({name: value for name, value in found.items() if name not in ("format", "settings")})
    if not runs:
        return
    tasks = {name: repr(task.make()) for name, task in protocol.tasks.items()}
    arms = {name: protocol.flossing(name) for name in protocol.arms}
    networks = {name: kind.described for name, kind in protocol.networks.items()}
    made = measured_on(("flossing", "jax", "jaxlib", "numpy", "optax", "equinox"), cores=1)
    results = made | {"settings": dataclasses.asdict(protocol.settings), "tasks": tasks}
    results |= {"networks": networks, "arms": arms}
    # One line per run, so that a changed run changes one line.
    lines = ",\n".join("  " + json.dumps(run, ensure_ascii=False) for run in runs)
    head = json.dumps(results, indent=1, ensure_ascii=False).removesuffix("\n}")
    write_atomically(out / "results.json", f'{head},\n "runs": [\n{lines}\n ]\n}}\n'.encode())
    write_atomically(out / "table.md", page(protocol, read_results(out)).encode())
    console.print(f"table  {out / 'table.md'}", highlight=False)


def restore(protocol: Protocol, out: Path):
    """Write the files of runs that results.json holds and runs/ lacks, if they used the settings of the protocol."""
    results = read_results(out)
    for run in results["runs"]:
        task, arm = run["task"], run["condition"]
        network, file = run["network"], run_file(out / "runs", task, run["network"], arm, run["seed"])
        if task not in protocol.tasks or arm not in protocol.arms or network not in protocol.networks:
            continue
        if is_done(file, protocol, task, network, arm):
            continue
        used = results["settings"] | {
            "task": results["tasks"][task],
            "network": results.get("networks", {}).get(network),
            "flossing": results.get("arms", {}).get(arm),
        }
        if used == json.loads(json.dumps(protocol.recorded(task, network, arm))):
            write_json(file, run | {"format": FORMAT, "settings": used})


def read_results(out: Path) -> dict[str, Any]:
    """The results of all runs so far."""
    file = out / "results.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else {"runs": []}


def page(protocol: Protocol, results: dict[str, Any]) -> str:
    """The tables, as the documentation includes them."""
    head = "<!-- written by python -m flossing_lab.comparison -->"
    if not results["runs"]:
        return f"{head}\n\nNot run yet: `python -m flossing_lab.comparison {protocol.folder}`.\n"
    made, jax = results["measured"][:10], results["versions"]["jax"]
    summary = f"{len(results['runs'])} runs, {made}, a core of {results['processor']} each, JAX {jax}."
    return f"{head}\n\n{summary}\n\n{solved.markdown(protocol, results['runs'])}\n"


if __name__ == "__main__":
    sys.exit(main())
