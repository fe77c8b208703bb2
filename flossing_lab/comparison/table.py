"""The result of a trial as Markdown: how many draws solve a task in each arm, with tests; and what is missing."""

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flossing_lab.comparison import best, contenders, curves, seeds
from flossing_lab.comparison.ended import median, ranked
from flossing_lab.comparison.paired import drawn_pairs, pairs, smallest_difference
from flossing_lab.comparison.picture import draw
from flossing_lab.comparison.protocol import Trial
from flossing_lab.comparison.runs import best_runs, describe_results, read_runs
from flossing_lab.comparison.sections import TrialTask
from flossing_lab.runs import tables
from flossing_lab.runs.files import write_atomically
from flossing_lab.runs.plotting import save_figure
from flossing_lab.statistics import LEVEL, Paired, holm, signed_rank

Run = dict[str, Any]


def markdown(trial: Trial, runs: Sequence[Run]) -> str:
    """All tables. Each arm is compared with all later ones, or all contenders with the reference.

    Of fixed networks, how many seeds solve a task.
    """
    if trial.is_fixed:
        return "\n\n".join([seeds.markdown(trial, runs), _missing(trial, runs)]) + "\n"
    if trial.reference is not None:
        return "\n\n".join([contenders.markdown(trial, runs), _missing(trial, runs)]) + "\n"
    parts = [part for two in trial.comparisons() for part in _of_two_arms(two, runs, named=len(trial.arms) > 2)]
    return "\n\n".join([*parts, _missing(trial, runs)]) + "\n"


def _of_two_arms(trial: Trial, runs: Sequence[Run], *, named: bool) -> list[str]:
    """The tables of a trial of two arms, whose headings name the arms if there are more."""
    first, second = (trial.label(arm) for arm in trial.arms)
    which = f", {second} against {first}" if named else ""
    parts = [f"### All draws{which}", _summary(trial, runs), _by_task(trial, runs), _medians(trial, runs)]
    if any(run["seed"] for run in runs):
        head, rows, harm = best.table(trial, runs)
        parts += [f"### The best draw of each arm, with other seeds{which}", tables.markdown([head, *rows]), harm]
    return parts


def write_tables(trial: Trial, out: Path) -> list[Path]:
    """Write table.md, table.png and, without a reference, curves.png from results.json; return their paths.

    Of fixed networks, table.md alone. Returns none if there are no runs.
    """
    runs = read_runs(trial, out)
    if not (out / "results.json").exists():
        return []
    files = [out / "table.md"]
    text = f"<!-- written by flossing compare -->\n\n{describe_results(trial, out)}\n\n{markdown(trial, runs)}"
    write_atomically(files[0], text.encode())
    if trial.is_fixed:
        return files
    files.append(out / "table.png")
    save_figure((draw if trial.reference is None else contenders.draw)(trial, runs), files[1])
    if trial.reference is None:
        files.append(out / "curves.png")
        save_figure(curves.draw(trial, runs), files[2])
    return files


def verdict(found: Paired, adjusted: float | None, planned: int, family: int = 1) -> str:
    """What the pairs of one network decide, in words; nothing before all `planned` pairs of the family are there.

    `family`: the number of networks without a difference, by the last of which Holm's correction divides the level.
    """
    if found.n < planned:
        return f"{planned - found.n} of {planned} pairs are missing"
    if adjusted is None:
        return "pairs of other networks are missing"
    if adjusted < LEVEL:
        return "better" if found.difference > 0 else "worse"
    smallest = smallest_difference(found.n, LEVEL / family)
    shown = "none can be with so few pairs" if math.isnan(smallest) else f"one of {smallest:.2f} could have been"
    return f"no difference shown ({shown})"


def _summary(trial: Trial, runs: Sequence[Run]) -> str:
    first, second = list(trial.arms)[:2]
    found = {name: pairs(trial, runs, name) for name in trial.in_arms([first, second])}
    planned = {name: trial.networks[name].draws * len(trial.drawn_tasks) for name in found}
    is_complete = all(each.n == planned[name] for name, each in found.items())
    adjusted = dict(zip(found, holm([each.p for each in found.values()]), strict=True)) if is_complete else {}
    family = sum(p >= LEVEL for p in adjusted.values())
    rows = [
        (
            name,
            f"{each.first} of {each.n}",
            f"{each.second} of {each.n}",
            f"{each.difference:+.2f} ({each.interval[0]:+.2f} to {each.interval[1]:+.2f})",
            f"{each.p:.2g}" if each.n == planned[name] else "",
            f"{adjusted[name]:.2g}" if is_complete else "",
            verdict(each, adjusted.get(name), planned[name], family),
        )
        for name, each in found.items()
        if each.n
    ]
    labels = trial.label(first), trial.label(second)
    return tables.markdown([("all tasks", *labels, "difference (95 %)", "p (McNemar)", "p (Holm)", labels[1]), *rows])


def _by_task(trial: Trial, runs: Sequence[Run]) -> str:
    def cell(network: str, task: str) -> str:
        each = pairs(trial, runs, network, task)
        return f"{each.first} → {each.second} of {each.n} ({each.p:.2g})" if each.n else ""

    return _per_task(trial, "draws that solve (p, McNemar)", lambda task: task.title, cell)


def _medians(trial: Trial, runs: Sequence[Run]) -> str:
    """Medians over all draws, whether they solve a task or not; with a test that the protocol does not name."""

    def cell(network: str, task: str) -> str:
        both = drawn_pairs(trial, runs, network, task)
        return _medians_of(both, trial.tasks[task]) if both else ""

    head = "median of all draws (p, signed rank)"
    return _per_task(trial, head, lambda task: f"{task.title}, {task.measure}", cell)


def _per_task(trial: Trial, head: str, describe: Callable[[TrialTask], str], cell: Callable[[str, str], str]) -> str:
    """A table with a row for each network and a column for each task with draws."""
    tasks = trial.drawn_tasks
    rows = [(network, *(cell(network, task) for task in tasks)) for network in trial.networks]
    return tables.markdown([(head, *(describe(trial.tasks[task]) for task in tasks)), *rows])


def _medians_of(both: Sequence[tuple[Run, Run]], task: TrialTask) -> str:
    first, second = ([pair[arm] for pair in both] for arm in (0, 1))
    better = zip(ranked(second, task), ranked(first, task), strict=True)
    p = signed_rank([0.0 if ours == theirs else ours - theirs for ours, theirs in better])  # also two that failed
    ends = (f"{value:.3g}" if math.isfinite(value := median(runs, task)) else "failed" for runs in (first, second))
    return f"{' → '.join(ends)} ({p:.2g})"


def _missing(trial: Trial, runs: Sequence[Run]) -> str:
    wanted = [*trial.runs(), *best_runs(trial, runs)]
    made = {(r["task"], r["network"], r["draw"], r["arm"], r["seed"]) for r in runs}
    missing = [run for run in wanted if tuple(run) not in made]
    seconds = [sum(run["seconds"].values()) for run in runs]
    if not missing:
        return f"All {len(wanted)} runs are made."
    hours = len(missing) * statistics.mean(seconds) / 3600 if seconds else float("nan")
    return f"{len(missing)} of {len(wanted)} runs are missing, about {hours:.1f} core-hours."
