"""Verdicts on claims: which numbers decide, and how many networks they need."""

import itertools
import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from flossing_lab import statistics
from flossing_lab.paper.analysis import verdicts as judging
from flossing_lab.paper.figures import find_figures, limits, surrogate
from flossing_lab.runs.files import plain


def rows(**finals) -> list:
    """Groups of two lags: final accuracies of networks with the seeds 1, 2, ...; a solved one took 100 epochs times its
    lag."""
    return json.loads(
        json.dumps(
            plain(
                [
                    {
                        "d": d,
                        "condition": condition,
                        "seed": list(range(1, len(final) + 1)),
                        "final_accuracy": final,
                        "epochs_to_solve": [100.0 * d if value > 0.95 else np.inf for value in final],
                    }
                    for condition, lags in finals.items()
                    for d, final in zip((10, 20), lags, strict=True)
                ]
            )
        )
    )


def solving(count, n):
    """Accuracies of n networks of which the first `count` solve the task."""
    return [1.0] * count + [0.5] * (n - count)


UNDECIDED = "undecided at this n"


@pytest.mark.parametrize(
    ("before", "none", "verdict"),
    [
        ([(6, 6), (6, 6)], [(6, 6), (0, 6)], "holds"),  # 20 against 10 for each of six networks: p = 2 / 2^6
        ([(5, 5), (5, 5)], [(5, 5), (0, 5)], UNDECIDED),  # p = 2 / 2^5
        ([(3, 3), (3, 3)], [(3, 3), (0, 3)], UNDECIDED),
        ([(6, 6), (0, 6)], [(6, 6), (6, 6)], "fails"),
        ([(10, 10), (6, 10)], [(10, 10), (6, 10)], UNDECIDED),
        ([(10, 10), (6, 10)], [(10, 10), (0, 10)], "holds"),
    ],
)
def test_the_verdict_on_reach(before, none, verdict):
    given = {"before": [solving(*each) for each in before], "none": [solving(*each) for each in none]}
    claim = judging.reaches_further("claim", rows(**given), "before", "none")
    assert (claim.verdict, claim.n) == (verdict, before[0][1])
    assert "d = 10, 20." in claim.found and "p = " in claim.found
    assert judging.reaches_further("claim", rows(before=given["before"]), "before", "none").verdict == "not run"


def test_networks_are_paired_by_their_seeds():
    """In each pair one network is better, but by turns: no difference, although one seed was not run without."""
    ours, theirs = rows(before=[[1.0] * 8] * 2, none=[[1.0] * 8] * 2)[::2]
    ours["final_accuracy"] = [1.0, 0.5] * 4
    theirs["final_accuracy"] = [0.5, 1.0] * 4
    for name in ("seed", "final_accuracy", "epochs_to_solve"):
        theirs[name] = theirs[name][1:]
    claim = judging.reaches_further("claim", [ours, theirs], "before", "none")
    assert (claim.verdict, claim.n) == (UNDECIDED, 7)
    theirs["final_accuracy"] = [0.5] * 7
    ours["final_accuracy"] = [1.0] * 8
    assert judging.reaches_further("claim", [ours, theirs], "before", "none").verdict == "holds"


def test_the_verdict_on_speed():
    solved, failed = solving(6, 6), solving(0, 6)
    judged = judging.learns_faster("claim", rows(before=[solved, solved], none=[solved, failed]), "before", "none")
    assert judged.verdict == "holds"
    some = rows(before=[solving(4, 6), failed], none=[solved, failed])
    assert judging.learns_faster("claim", some, "before", "none").verdict == UNDECIDED  # two of six never learn it
    quick = rows(before=[solving(8, 10)] * 2, none=[solving(10, 10)] * 2)
    for group in quick[:2]:
        group["epochs_to_solve"] = [10.0] * 8 + ["inf"] * 2
    assert judging.learns_faster("claim", quick, "before", "none").verdict == UNDECIDED
    assert "d = 10: 1000 epochs against 1000 epochs; d = 20: 2000 epochs against never." in judged.found
    groups = rows(before=[solved, solved], none=[solved, solved])
    groups[3]["epochs_to_solve"] = [2500.0 + i for i in range(6)]
    assert judging.learns_faster("c", groups, "before", "none").verdict == "holds"
    assert judging.learns_faster("c", groups, "none", "before").verdict == "fails"
    assert (
        judging.learns_faster("c", rows(before=[failed] * 2, none=[failed] * 2), "before", "none").verdict == UNDECIDED
    )


@pytest.mark.parametrize(
    ("inner", "n", "verdict"),
    [(80.0, 8, "holds"), (80.0, 3, UNDECIDED), (100.0, 8, UNDECIDED), (150.0, 8, "fails")],
)
def test_the_verdict_on_k(inner, n, verdict):
    along = [
        {"k": k, "seed": list(range(n)), "final_accuracy": [1.0] * n, "epochs_to_solve": [each + i for i in range(n)]}
        for k, each in ((1, 100.0), (40, inner), (80, 120.0))
    ]
    along[1]["epochs_to_solve"] = [inner + i for i in range(n)]
    assert judging.best_is_between("claim", along, "k").verdict == verdict
    assert judging.best_is_between("claim", along[:2], "k").verdict == "not run"


@pytest.mark.parametrize(
    ("solved", "n", "verdict"),
    [((6, 0), 6, "holds"), ((3, 0), 3, UNDECIDED), ((5, 4), 6, UNDECIDED), ((0, 6), 6, "fails")],
)
def test_the_verdict_on_windows(solved, n, verdict):
    each = [{"window": w, "d": 60, "seed": list(range(n))} for w in (100, 20)]
    groups = [{**row, "final_accuracy": solving(count, n)} for row, count in zip(each, solved, strict=True)]
    (claim,) = find_figures()["supplement_window"].claims({"groups": groups})
    assert claim.verdict == verdict


def test_no_verdict_where_all_solve_all():
    easy = [[1, 1, 1], [1, 1, 0.96]]
    claim = judging.reaches_further("claim", rows(before=easy, none=easy), "before", "none")
    assert claim.verdict == UNDECIDED
    assert claim.found.endswith(judging.NO_DIFFERENCE)


def test_unknown_numbers_decide_nothing():
    constant = np.ones(8)
    with pytest.warns(match="constant"):
        assert judging.correlates("c", "", constant, np.arange(8.0)).verdict == UNDECIDED
    assert judging.compare("c", "", [1.0, None, 3.0], [2.0, 1.0, 1.0]).n == 2
    # Twelve large gains against twelve small losses: the ranks decide, not their number.
    differences = [100.0 + i for i in range(12)] + [-1.0 - i / 100 for i in range(12)]
    assert judging.compare("c", "", differences, [0.0] * 24, more=False).verdict == "fails"


def test_goals_need_ten_networks():
    for count, n, verdict in ((9, 10, "reached"), (8, 10, "not reached"), (3, 3, UNDECIDED), (2, 3, "not reached")):
        assert judging.nine_of_ten("goal", {"final_accuracy": solving(count, n)}).verdict == verdict


def test_rank_correlations_of_few_are_exact():
    """Of three numbers in order: 2 of 6 orders are as extreme, whereas the asymptotic p is 0."""
    assert statistics.rank_correlation([1, 2, 3], [4, 5, 9]) == (pytest.approx(1.0), pytest.approx(2 / 6))
    x, y = [1, 2, 2, 3, 5, 8], [2, 1, 4, 4, 7, 3]
    each = np.array([spearmanr(x, order)[0] for order in itertools.permutations(y)])
    correlation, p = statistics.rank_correlation(x, y)
    assert correlation == pytest.approx(spearmanr(x, y)[0])
    assert p == pytest.approx((abs(each) >= abs(correlation) - 1e-9).mean())
    many = np.arange(20.0), np.arange(20.0) % 7
    assert statistics.rank_correlation(*many)[1] == pytest.approx(spearmanr(*many)[1])


def test_every_change_is_judged_against_the_goal():
    """9 of 10 reach it, also beside a change that was run on one network alone."""
    row = {"change": limits.AS_IS, "seed": [*range(10)], "final_accuracy": [0.5] * 10, "alive": [1] * 10}
    many = row | {"change": "slower", "final_accuracy": [0.99] * 9 + [0.5]}
    one = row | {"change": "longer", "seed": [1], "final_accuracy": [1.0], "alive": [1]}
    goal, _ = limits.claims({"groups": [row, one, many]})
    assert goal.verdict == "reached" and "Most networks, slower: 9 of 10" in goal.found


def test_every_k_needs_every_k():
    sizes = {"16": [1.0], "32": [1.0], "1": [1.0]}
    rows = [{"k": k, "size": sizes, "condition_end": [1.0], "feedback_end": [1.0]} for k in (0, 1)]
    found = surrogate.claims({"k": [1, 16, 32], "m": 32, "horizons": [150], "rows": rows, "networks": 1})
    assert {claim.verdict for claim in found} == {"not run"}


def test_the_n_of_several_cases_is_that_of_the_smallest():
    ten = np.arange(1.0, 11.0)
    assert judging.compare_each("claim", "found.", [(ten, 0 * ten), (ten[:3], 0 * ten[:3])]).n == 3
    assert judging.compare_each("claim", "found.", [(ten[:3], 0 * ten[:3]), (ten, 0 * ten)]).n == 3
