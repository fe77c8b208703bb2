"""Verdicts on claims about runs. Each criterion is reported with the measured numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flossing_lab.paper.analysis.measures import SOLVED, Group, numbers
from flossing_lab.paper.contract import Claim
from flossing_lab.runs.plotting import LABELS

Rows = dict[Any, Group]

NO_DIFFERENCE = "All networks solve every case tried, so these cases are too easy to show a difference."


def reaches_further(
    claim: str, rows: Sequence[Group], better: str, worse: str, *, key: str = "condition", names: Any = LABELS
) -> Claim:
    """Whether networks of one kind solve a task at longer lags than others.

    It holds if the longest lag solved by the median network is longer. It holds in part if that lag is the same but
    more networks solve the task over all lags. It is undecided if all networks of both kinds solve it at all lags.
    """
    ours, theirs = _by_lag(rows, key, better), _by_lag(rows, key, worse)
    lags = sorted(ours.keys() & theirs.keys())
    if not lags:
        return not_run(claim)
    reach = [
        max((d for d in lags if _median(group[d], "final_accuracy") >= SOLVED), default=0) for group in (ours, theirs)
    ]
    solved = [sum(count_solved(group[d]) for d in lags) for group in (ours, theirs)]
    runs = [sum(len(group[d]["seed"]) for d in lags) for group in (ours, theirs)]
    listed = [
        f"{names[name]}: {f'd = {far}' if far else 'none'} ({done} of {count} networks over all lags)"
        for name, far, done, count in zip((better, worse), reach, solved, runs, strict=True)
    ]
    solved_by = f"Longest lag solved by the median network (final accuracy ≥ {SOLVED})"
    found = f"{solved_by}, {'; '.join(listed)}. Lags tried: d = {_list(lags)}."
    if solved == runs:
        return Claim(claim, f"{found} {NO_DIFFERENCE}", networks(rows), "undecided")
    more = solved[0] / runs[0] > solved[1] / runs[1]
    verdict = "holds" if reach[0] > reach[1] else "holds in part" if reach[0] == reach[1] and more else "does not hold"
    return Claim(claim, found, networks(rows), verdict)


def learns_faster(claim: str, rows: Sequence[Group], better: str, worse: str) -> Claim:
    """Whether one condition solves a task in fewer epochs than another. Only lags that the median network of either
    condition solves are compared. It holds if it is faster at all of them, in part if at some."""
    ours, theirs = _by_lag(rows, "condition", better), _by_lag(rows, "condition", worse)
    pairs = {d: [_median(g[d], "epochs_to_solve") for g in (ours, theirs)] for d in sorted(ours.keys() & theirs.keys())}
    if not pairs:
        return not_run(claim)
    pairs = {d: pair for d, pair in pairs.items() if np.isfinite(pair).any()}
    if not pairs:
        found = "The median network of neither condition solves it at any d."
        return Claim(claim, found, networks(rows), "does not hold")
    listed = "; ".join(f"d = {d}: {_epochs(a)} against {_epochs(b)}" for d, (a, b) in pairs.items())
    faster = [a < b for a, b in pairs.values()]
    verdict = "holds" if all(faster) else "holds in part" if any(faster) else "does not hold"
    found = f"Median epochs to accuracy {SOLVED}, {LABELS[better]} against {LABELS[worse]}: {listed}."
    return Claim(claim, found, networks(rows), verdict)


def best_is_between(claim: str, rows: Sequence[Group], key: str) -> Claim:
    """Whether the best value of `key` is neither the smallest nor the largest.

    The best value is the one at which most networks solve the task; ties go to the fewest epochs (median). It holds
    if an inner value is better than both ends, in part if it is better than one end and as good as the other.
    Differences below a tenth of the epochs are ignored.
    """
    ranked = {row[key]: (count_solved(row), -_median(row, "epochs_to_solve")) for row in rows}
    if len(ranked) < 3:
        return not_run(claim)
    ends = [ranked[min(ranked)], ranked[max(ranked)]]
    inner = {value: rank for value, rank in ranked.items() if value not in (min(ranked), max(ranked))}
    best = max(inner, key=lambda value: inner[value])
    listed = "; ".join(
        f"{key} = {row[key]}: {count_solved(row)} of {len(row['seed'])}, {_epochs(-ranked[row[key]][1])}"
        for row in rows
    )
    better = [_is_better(inner[best], end) for end in ends]
    worse = [_is_better(end, inner[best]) for end in ends]
    verdict = "holds" if all(better) else "holds in part" if any(better) and not any(worse) else "does not hold"
    found = (
        f"Networks that solve the task (final accuracy ≥ {SOLVED}), and median epochs to accuracy {SOLVED}: {listed}. "
        "Differences below a tenth of the epochs are ignored; the spread over networks is not considered."
    )
    return Claim(claim, found, networks(rows), verdict)


def _is_better(one: tuple[int, float], other: tuple[int, float]) -> bool:
    # Each is (number of networks that solve the task, minus the epochs they need).
    return one[0] > other[0] or (one[0] == other[0] and -one[1] < -0.9 * other[1])


def not_run(claim: str) -> Claim:
    """The claim without a verdict, for lack of runs."""
    return Claim(claim, "Too few finished runs.", 0, "not run")


def networks(rows: Sequence[Group]) -> int | str:
    """The number of networks behind each of these rows, or the range of that number."""
    counts = sorted({len(row["seed"]) for row in rows}) or [0]
    return counts[0] if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def solved_share(rows: Sequence[Group], chosen: Callable[[Group], bool]) -> tuple[int, int]:
    """The number of networks in the chosen groups that solve their task, and their total number."""
    matching = [row for row in rows if chosen(row)]
    return sum(count_solved(row) for row in matching), sum(len(row["seed"]) for row in matching)


def _by_lag(rows: Sequence[Group], key: str, value: Any) -> Rows:
    return {row["d"]: row for row in rows if row[key] == value}


def count_solved(row: Group) -> int:
    return int((numbers(row["final_accuracy"]) >= SOLVED).sum())


def _median(row: Group, name: str) -> float:
    # With an even number of networks this is the mean of the middle two, infinite if one of them is.
    return float(np.median(numbers(row[name])))


def _epochs(value: float) -> str:
    return f"{value:.0f} epochs" if np.isfinite(value) else "never"


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def nine_of_ten(claim: str, row: Group) -> Claim:
    """It holds if at least nine in ten of a row's networks solve the task; in part if any do."""
    accuracy = numbers(row["final_accuracy"])
    solved = int((accuracy >= SOLVED).sum())
    found = (
        f"{solved} of {len(accuracy)} networks (final accuracy ≥ {SOLVED}; from {accuracy.min():.3f} to "
        f"{accuracy.max():.3f}, median {np.median(accuracy):.3f})."
    )
    verdict = "holds" if solved >= 0.9 * len(accuracy) else "holds in part" if solved else "does not hold"
    return Claim(claim, found, len(accuracy), verdict)
