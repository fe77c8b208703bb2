"""Verdicts on claims about runs, by tests. Each test is reported with the measured numbers.

A claim holds or fails at p < 0.05, otherwise it is undecided at this n. Networks are the units: numbers of one network
at several lags are first summarised to one, and networks of two conditions are paired by their seeds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from flossing_lab.paper.analysis.measures import SOLVED, Group, numbers
from flossing_lab.paper.contract import Claim, Verdict
from flossing_lab.runs.plotting import LABELS
from flossing_lab.statistics import (
    LEVEL,
    holm,
    majority,
    median_interval,
    rank_balance,
    rank_correlation,
    signed_rank,
    wilson,
)

NO_DIFFERENCE = "All networks solve every case tried, so these cases are too easy to show a difference."
UNDECIDED: Verdict = "undecided at this n"


def decide(p: float, favours: bool) -> Verdict:
    """holds or fails below p = 0.05, else undecided."""
    return UNDECIDED if not p < LEVEL else "holds" if favours else "fails"  # NaN decides nothing


def compare(
    claim: str, found: str, ours: ArrayLike, theirs: ArrayLike, *, more: bool = True, ranks_alone: bool = False
) -> Claim:
    """Whether paired numbers are larger (`more`) or smaller in `ours`, by the signed-rank test.

    `found` says what the numbers are; the median difference, its interval and p are appended; p alone if only the order
    of the numbers means anything.
    """
    differences = _differences(ours, theirs)
    if not len(differences):
        return not_run(claim)
    p = signed_rank(differences)
    middle = float(np.median(differences))
    favours = (rank_balance(differences) > 0) == more
    tested = f"p = {p:.2g} (signed rank, n = {len(differences)})."
    if not ranks_alone:
        tested = f"Median difference {_between(middle, differences)}; {tested}"
    return Claim(claim, f"{found} {tested}", len(differences), decide(p, favours))


Cases = Sequence[tuple[ArrayLike, ArrayLike]]


def compare_each(claim: str, found: str, cases: Cases, *, more: bool = True) -> Claim:
    """Whether the claim is true in every case: holds if it holds in each, fails if it fails in one (p after Holm)."""
    claims = [compare(claim, "", *case, more=more) for case in cases]
    p = holm([signed_rank(_differences(*case)) for case in cases])
    verdicts: list[Verdict] = [
        each.verdict if value < LEVEL else UNDECIDED for each, value in zip(claims, p, strict=True)
    ]
    listed = ", ".join(f"{value:.2g}" for value in p)
    return Claim(claim, f"{found} p (Holm): {listed}.", min(each.n for each in claims), all_of(verdicts))


def correlates(claim: str, found: str, x: np.ndarray, y: np.ndarray) -> Claim:
    """Whether two numbers of each network grow together, by Spearman's rank correlation."""
    correlation, p = rank_correlation(x, y)
    tested = f"Rank correlation {correlation:.2f}, p = {p:.2g} (n = {len(x)})."
    return Claim(claim, f"{found} {tested}", len(x), decide(p, correlation > 0))


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim that several others must support."""
    if "fails" in verdicts:
        return "fails"
    return "holds" if all(each == "holds" for each in verdicts) else UNDECIDED


def _differences(ours: ArrayLike, theirs: ArrayLike) -> np.ndarray:
    a, b = (numbers(np.asarray(each).tolist()) for each in (ours, theirs))
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, a - b)  # two infinite numbers are equal


def _between(middle: float, differences: np.ndarray) -> str:
    interval = median_interval(differences.tolist())
    between = f"95 % from {interval[0]:+.3g} to {interval[1]:+.3g}" if interval else "no 95 % interval below n = 6"
    return f"{middle:+.3g}, {between}"


def most_do(claim: str, found: str, counts: Sequence[tuple[int, int]]) -> Claim:
    """Whether more than half of the networks do something in each case, by the exact binomial test (Holm)."""
    p = holm([majority(*count) for count in counts])
    verdicts: list[Verdict] = [decide(value, 2 * done > n) for value, (done, n) in zip(p, counts, strict=True)]
    shares = "; ".join(f"{done} of {n} ({_interval(done, n)})" for done, n in counts)
    tested = f"{shares}; against one half: p = {_list_p(p)}."
    return Claim(claim, f"{found} {tested}", min(n for _, n in counts), all_of(verdicts))


def _list_p(p: Sequence[float]) -> str:
    return ", ".join(f"{value:.2g}" for value in p)


def _interval(done: int, n: int) -> str:
    low, high = wilson(done, n)
    return f"95 % from {low:.2f} to {high:.2f}"


def reaches_further(
    claim: str, rows: Sequence[Group], better: str, worse: str, *, key: str = "condition", names: Any = LABELS
) -> Claim:
    """Whether networks of one kind solve a task at longer lags than the same networks of another.

    The number of a network is the longest lag that it solves, 0 for none. Only lags and seeds with both are compared.
    """
    ours, theirs = _by_lag(rows, key, better), _by_lag(rows, key, worse)
    lags = sorted(ours.keys() & theirs.keys())
    seeds = _seeds([group[d] for group in (ours, theirs) for d in lags])
    if not lags or not seeds:
        return not_run(claim)
    reach = [[_reach(group, lags, seed) for seed in seeds] for group in (ours, theirs)]
    solved = [sum(_of_seed(group[d], "final_accuracy", seed) >= SOLVED for d in lags for seed in seeds)
              for group in (ours, theirs)]  # fmt: skip
    tried = len(lags) * len(seeds)
    listed = "; ".join(
        f"{names[name]}: median {np.median(each):g}, {done} of {tried} solved"
        for name, each, done in zip((better, worse), reach, solved, strict=True)
    )
    found = f"Longest lag that a network solves (final accuracy ≥ {SOLVED}), {listed}. Lags tried: d = {_list(lags)}."
    if solved == [tried, tried]:
        return Claim(claim, f"{found} {NO_DIFFERENCE}", len(seeds), UNDECIDED)
    return compare(claim, found, *reach)


def learns_faster(claim: str, rows: Sequence[Group], better: str, worse: str) -> Claim:
    """Whether networks solve a task in fewer epochs under one condition than under another.

    The number of a network is its mean over lags; a lag that it never solves counts as UNSOLVED says. Lags that no
    network solves are left out.
    """
    ours, theirs = _by_lag(rows, "condition", better), _by_lag(rows, "condition", worse)
    lags = [d for d in sorted(ours.keys() & theirs.keys())
            if any(np.isfinite(numbers(group[d]["epochs_to_solve"])).any() for group in (ours, theirs))]  # fmt: skip
    if not ours.keys() & theirs.keys():
        return not_run(claim)
    if not lags:
        return Claim(claim, "No network of either condition solves it at any d.", networks(rows), UNDECIDED)
    seeds = _seeds([group[d] for group in (ours, theirs) for d in lags])
    listed = "; ".join(f"d = {d}: {_median_epochs(ours[d])} against {_median_epochs(theirs[d])}" for d in lags)
    each = [[[_of_seed(group[d], "epochs_to_solve", seed) for d in lags] for seed in seeds] for group in (ours, theirs)]
    mean = [[float(np.mean(row)) for row in group] for group in _capped(each)]
    found = f"Median epochs to accuracy {SOLVED}, {LABELS[better]} against {LABELS[worse]}: {listed}."
    if not np.isfinite(each).all():
        found += " A lag that a network never solves counts as slower than any that it solves."
    return compare(claim, found, *mean, more=False, ranks_alone=not np.isfinite(each).all())


def best_is_between(claim: str, rows: Sequence[Group], key: str) -> Claim:
    """Whether some value of `key` is better than both the smallest and the largest, in epochs to solve the task.

    Each inner value is compared with both ends, network by network; p is adjusted for all comparisons (Holm). It fails
    if an end is better than every inner value.
    """
    by_value = {row[key]: row for row in rows}
    seeds = _seeds(rows)
    if len(by_value) < 3 or not seeds:
        return not_run(claim)
    epochs = {value: [_of_seed(row, "epochs_to_solve", seed) for seed in seeds] for value, row in by_value.items()}
    ends = (min(epochs), max(epochs))
    pairs = [(value, end) for value in epochs if value not in ends for end in ends]
    differences = [_differences(epochs[value], epochs[end]) for value, end in pairs]
    p = holm([signed_rank(each) for each in differences])
    verdicts = {
        pair: decide(value, rank_balance(each) < 0) for pair, value, each in zip(pairs, p, differences, strict=True)
    }
    inner = [value for value in epochs if value not in ends]
    between = [all(verdicts[value, end] == "holds" for end in ends) for value in inner]
    outside = [all(verdicts[value, end] == "fails" for value in inner) for end in ends]
    listed = "; ".join(
        f"{key} = {value}: {count_solved(row)} of {len(row['seed'])}, {_median_epochs(row)}"
        for value, row in sorted(by_value.items())
    )
    found = (
        f"Networks that solve the task (final accuracy ≥ {SOLVED}), and median epochs to accuracy {SOLVED}: {listed}. "
        f"Smallest p of an inner value against an end: {min(p):.2g} (signed rank, Holm, n = {len(seeds)})."
    )
    verdict: Verdict = "holds" if any(between) else "fails" if any(outside) else UNDECIDED
    return Claim(claim, found, len(seeds), verdict)


def nine_of_ten(claim: str, row: Group) -> Claim:
    """A goal: it is reached if at least nine in ten of at least ten networks solve the task."""
    accuracy = numbers(row["final_accuracy"])
    solved, n = int((accuracy >= SOLVED).sum()), len(accuracy)
    found = (
        f"{solved} of {n} networks (final accuracy ≥ {SOLVED}; {_interval(solved, n)}; from {accuracy.min():.3f} to "
        f"{accuracy.max():.3f}, median {np.median(accuracy):.3f})."
    )
    if solved < 0.9 * n:
        return Claim(claim, found, n, "not reached")
    return Claim(claim, found, n, "reached" if n >= 10 else UNDECIDED)


def not_run(claim: str) -> Claim:
    """The claim without a verdict, for lack of runs."""
    return Claim(claim, "Too few finished runs.", 0, "not run")


def networks(rows: Sequence[Group]) -> int | str:
    """The number of networks behind each of these rows, or the range of that number."""
    counts = sorted({len(row["seed"]) for row in rows}) or [0]
    return counts[0] if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def count_solved(row: Group) -> int:
    """The number of networks of a row that solve the task."""
    return int((numbers(row["final_accuracy"]) >= SOLVED).sum())


def pairs_of(rows: Sequence[tuple[Group, Group]], name: str, *, factor: float = 1.0) -> tuple[list[float], list[float]]:
    """A number of each network, the mean over its cases, in the first and the second row of each case.

    The numbers of the second rows are multiplied by `factor`. Infinite ones, before that, count as UNSOLVED says.
    """
    seeds = _seeds([row for case in rows for row in case])
    if not seeds:
        return [], []
    each = [[[_of_seed(case[side], name, seed) for case in rows] for seed in seeds] for side in (0, 1)]
    is_finite = np.isfinite(np.asarray(each[1], float))
    ours, theirs = _capped(each)
    theirs = np.where(is_finite, factor * theirs, theirs)
    return ours.mean(-1).tolist(), theirs.mean(-1).tolist()


UNSOLVED = 10
"""A case that a network never solves counts as this many times the largest number of epochs that any network needed, so
that networks are ordered first by how many cases they solve."""


def _capped(each: Sequence) -> np.ndarray:
    values = np.asarray(each, float)
    finite = values[np.isfinite(values)]
    return np.where(np.isfinite(values), values, UNSOLVED * finite.max(initial=0.1))


def solved_share(rows: Sequence[Group], chosen: Callable[[Group], bool]) -> list[float]:
    """The share of the chosen rows that each network solves, over networks that are in all rows."""
    matching = [row for row in rows if chosen(row)]
    if not matching:
        return []
    solved = [[_of_seed(row, "final_accuracy", seed) >= SOLVED for row in matching] for seed in _seeds(rows)]
    return [float(np.mean(each)) for each in solved]


def _seeds(rows: Sequence[Group]) -> list[int]:
    """The seeds that are in every row."""
    return sorted(set.intersection(*({*row["seed"]} for row in rows))) if rows else []


def _of_seed(row: Group, name: str, seed: int) -> float:
    return float(numbers(row[name])[row["seed"].index(seed)])


def _reach(rows: dict[Any, Group], lags: Sequence[int], seed: int) -> int:
    return max((d for d in lags if _of_seed(rows[d], "final_accuracy", seed) >= SOLVED), default=0)


def _by_lag(rows: Sequence[Group], key: str, value: Any) -> dict[Any, Group]:
    return {row["d"]: row for row in rows if row[key] == value}


def _median_epochs(row: Group) -> str:
    # With an even number of networks this is the mean of the middle two, infinite if one of them is.
    value = float(np.median(numbers(row["epochs_to_solve"])))
    return f"{value:.0f} epochs" if np.isfinite(value) else "never"


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
