"""The result of a trial as Markdown: how many draws solve a task in each arm, with tests; and what is missing."""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import fisher_exact

from flossing_lab.comparison.trial import contenders
from flossing_lab.comparison.trial.paired import is_solved, pairs, smallest_difference
from flossing_lab.comparison.trial.picture import draw
from flossing_lab.comparison.trial.protocol import Trial
from flossing_lab.comparison.trial.runs import best_runs, read_results
from flossing_lab.runs.files import write_atomically
from flossing_lab.runs.plotting import save_figure
from flossing_lab.statistics import Paired, holm

Run = dict[str, Any]
LEVEL = 0.05


def markdown(trial: Trial, runs: Sequence[Run]) -> str:
    """All tables. The first arm is compared with the second, or all contenders with the reference."""
    if trial.reference is not None:
        return "\n\n".join([contenders.markdown(trial, runs), _missing(trial, runs)]) + "\n"
    parts = ["### All draws", _summary(trial, runs), _by_task(trial, runs)]
    if any(run["seed"] for run in runs):
        parts += ["### The best draw of each arm, with other seeds", _best(trial, runs)]
    return "\n\n".join([*parts, _missing(trial, runs)]) + "\n"


def write_tables(trial: Trial, out: Path) -> list[Path]:
    """Write table.md and table.png from results.json; return their paths, none if there are no runs."""
    runs = read_results(out)
    if not runs:
        return []
    files = [out / "table.md", out / "table.png"]
    write_atomically(files[0], f"<!-- written by flossing compare -->\n\n{markdown(trial, runs)}".encode())
    save_figure((draw if trial.reference is None else contenders.draw)(trial, runs), files[1])
    return files


def verdict(found: Paired, adjusted: float, planned: int) -> str:
    """What the pairs of one network decide, in words; nothing before all `planned` pairs are there."""
    if found.n < planned:
        return f"{planned - found.n} of {planned} pairs are missing"
    if adjusted < LEVEL:
        return "better" if found.difference > 0 else "worse"
    return f"no difference shown (one of {smallest_difference(found.n):.2f} could have been)"


def _summary(trial: Trial, runs: Sequence[Run]) -> str:
    first, second = list(trial.arms)[:2]
    found = {name: pairs(trial, runs, name) for name in trial.networks}
    adjusted = dict(zip(found, holm([each.p for each in found.values()]), strict=True))  # the whole family
    rows = [
        (
            name,
            f"{each.first} of {each.n}",
            f"{each.second} of {each.n}",
            f"{each.difference:+.2f} ({each.interval[0]:+.2f} to {each.interval[1]:+.2f})",
            f"{each.p:.2g}",
            f"{adjusted[name]:.2g}",
            verdict(each, adjusted[name], trial.networks[name].draws * len(trial.drawn_tasks)),
        )
        for name, each in found.items()
        if each.n
    ]
    return _table(("all tasks", first, second, "difference (95 %)", "p (McNemar)", "p (Holm)", second), rows)


def _by_task(trial: Trial, runs: Sequence[Run]) -> str:
    rows = []
    for name in trial.networks:
        cells = []
        for task in trial.drawn_tasks:
            each = pairs(trial, runs, name, task)
            cells.append(f"{each.first} → {each.second} of {each.n}" if each.n else "")
        rows.append((name, *cells))
    return _table(("draws that solve", *(trial.tasks[task].title for task in trial.drawn_tasks)), rows)


def _best(trial: Trial, runs: Sequence[Run]) -> str:
    first, second = list(trial.arms)[:2]
    rows = []
    for (name, task), network in itertools.product(trial.tasks.items(), trial.networks):
        of = {
            arm: [r for r in runs if r["seed"] and (r["task"], r["network"], r["arm"]) == (name, network, arm)]
            for arm in (first, second)
        }
        if not any(of.values()) or (task.settings_of is None and not all(of.values())):
            continue  # on longer tasks one arm may run alone
        solved = {arm: sum(is_solved(trial, run) for run in each) for arm, each in of.items()}
        table = [[solved[arm], len(of[arm]) - solved[arm]] for arm in (first, second)]
        cells = [
            f"{solved[arm]} of {len(of[arm])}, {statistics.median(run[task.measure] for run in of[arm]):.3g}"
            if of[arm]
            else ""
            for arm in (first, second)
        ]
        rows.append((task.title, network, *cells, f"{fisher_exact(table)[1]:.2g}" if all(of.values()) else ""))
    return _table(("task", "network", first, second, "p (Fisher)"), rows)


def _missing(trial: Trial, runs: Sequence[Run]) -> str:
    wanted = [*trial.runs(), *best_runs(trial, runs)]
    made = {(r["task"], r["network"], r["draw"], r["arm"], r["seed"]) for r in runs}
    missing = [run for run in wanted if tuple(run) not in made]
    seconds = [sum(run["seconds"].values()) for run in runs]
    if not missing:
        return f"All {len(wanted)} runs are made."
    hours = len(missing) * statistics.mean(seconds) / 3600 if seconds else float("nan")
    return f"{len(missing)} of {len(wanted)} runs are missing, about {hours:.1f} core-hours."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
