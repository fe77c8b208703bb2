"""Beyond the paper: the comparison of schedules, and the memory of networks."""

import copy
import json

import numpy as np
import pytest

from flossing_lab.paper import schedules
from flossing_lab.paper.calculations import capacity as calculations
from flossing_lab.paper.figures import above_n as beyond, capacity, find_figures, frontier, larger, limits
from flossing_lab.paper.results_page import page
from flossing_lab.reference.config import Config, StoppingConfig
from flossing_lab.runs.files import plain
from flossing_lab.runs.provenance import brief_provenance

UNDECIDED = "undecided at this n"


def delay_line(units, scale=1e-3):
    """A delay line: unit i holds the bit from i steps ago; tanh is linear at this scale."""
    return np.eye(units, k=-1), scale * np.eye(units, 1), np.zeros(units)


def bits(length, seed=0):
    return np.random.default_rng(seed).integers(0, 2, length).astype(float)


def test_a_delay_line_remembers_as_many_steps_as_it_has_units():
    memory = calculations.memory_function(delay_line(7), bits(6000), 12)
    np.testing.assert_allclose(memory[:7], 1, atol=1e-6)
    assert (memory[7:] < 0.01).all()
    assert memory.sum() == pytest.approx(7, abs=0.02)


def test_memory_fades_as_the_theory_of_one_linear_unit_says():
    """x_t = a x_{t-1} + s_t: the correlation with the bit n steps ago is a^n sqrt(1 - a^2)."""
    a = 0.8
    memory = calculations.memory_function((np.array([[a]]), np.array([[1e-3]]), np.zeros(1)), bits(200_000), 8)
    np.testing.assert_allclose(memory, a ** (2 * np.arange(8)) * (1 - a**2), atol=0.01)


def test_parities_are_readable_where_they_are_held():
    """A delay line, plus units that hold the XOR of the current bit and the bit 4 steps ago, for 3 steps."""
    signal = bits(6000)
    parity = np.abs(signal - np.roll(signal, 4))
    held = [np.roll(signal, lag) for lag in range(4)] + [np.roll(parity, lag) for lag in range(3)]
    delayed = calculations._delayed(signal, 12, 20)
    np.testing.assert_array_equal(delayed[:, 3], signal[17:-3])
    readable = calculations._readable(np.stack(held, axis=1)[20:], np.abs(delayed[:, :8] - delayed[:, 4:]))
    np.testing.assert_allclose(readable, [1] * 3 + [0] * 5, rtol=0, atol=0.02)
    # A linear network holds none.
    assert calculations.parity_function(delay_line(7), signal, 6, 3).max() < 0.02


def test_schedules_differ_in_flossing_and_start_alone():
    for scale in ("laptop", "paper", "tiny"):
        for setting in frontier.settings(scale):
            at = {name: frontier.spec_of(scale, setting, name).points()[0].config for name in schedules.SCHEDULES}
            same = [
                (
                    config.task,
                    config.training,
                    config.seeds,
                    config.network.model_copy(update={"recurrent": "gaussian"}),
                )
                for config in at.values()
                if isinstance(config, Config)
            ]
            assert len(same) == 7
            assert all(each == same[0] for each in same)
    assert len({spec.name for spec in frontier.specs("laptop")}) == 7 * len(frontier.settings("laptop")) + 1


def group(units, d, schedule, accuracy, epochs, flossing):
    each = {"final_accuracy": accuracy, "epochs_to_solve": epochs, "flossed_steps": flossing}
    shared = {"units": units, "d": d, "load": d / units, "schedule": schedule}
    return {**shared, **each, "seed": list(range(len(accuracy))), "seconds": [1.0] * len(accuracy)}


def content(data):
    counts = {"runs": {"made": 0, "wanted": 0}, "calculations": {"made": 0, "wanted": 0}, "missing": []}
    return {"scale": "laptop", **counts, "provenance": brief_provenance(), "data": data}


GROUPS = [
    group(80, 76, "adaptive", [0.99] * 9 + [0.6], [4000.0] * 9 + ["inf"], [900] * 10),
    group(80, 76, "periodic", [0.9] * 10, ["inf"] * 10, [3000] * 10),
    group(80, 40, "adaptive", [0.99] * 3, [600.0] * 3, [600] * 3),
    group(80, 40, "reference", [0.99] * 3, [500.0] * 3, [1500] * 3),
    group(80, 100, "adaptive", [0.94, 0.5, 0.5], ["inf"] * 3, [5000] * 3),
]


def verdicts(groups):
    claims = frontier.claims(json.loads(json.dumps(plain({"groups": groups}))))
    return [claim.verdict for claim in claims]


def test_the_verdicts_on_the_frontier():
    unknown = "not run"
    others = [unknown] * 3, [unknown], [unknown]  # of `whole`, which was not run
    ours = verdicts(GROUPS)
    assert (ours[1:6:2], ours[7:8], ours[9:10]) == others
    # Ten networks flossed less at one d; three that were at most 20 % slower prove nothing.
    assert [*ours[0:6:2], ours[6], *ours[8:11:2]] == [unknown, "reached", unknown, "holds", UNDECIDED, "not reached"]
    groups = copy.deepcopy(GROUPS)
    groups[0]["final_accuracy"][0] = 0.9  # eight of ten
    groups[2]["epochs_to_solve"] = [601.0] * 3  # more than 20 % slower
    groups[4]["final_accuracy"][0] = 0.96
    ours = verdicts(groups)
    expected = [unknown, "not reached", unknown, "holds", UNDECIDED, "reached"]
    assert [*ours[0:6:2], ours[6], *ours[8:11:2]] == expected
    assert verdicts([]) == [unknown] * 11
    for name in ("frontier", "above_n", "limits", "larger", "capacity"):
        assert find_figures()[name].draw({"groups": [], "units": 8, "rows": [], "curves": []}).axes
    assert frontier.draw({"groups": GROUPS}).axes


def test_what_is_changed_is_little():
    as_it_is, *changed = [spec.points()[0].config for spec in limits.specs("laptop")]
    first = frontier.spec_of("laptop", frontier.settings("laptop")[0], "adaptive").points()[0].config
    assert as_it_is.digest == first.digest  # those of the frontier are not run again
    assert len(changed) == len(limits.CHANGES) - 1
    assert all(1 <= len(as_it_is.differences(config)) <= 3 for config in changed)
    whole = frontier.spec_of("laptop", frontier.settings("laptop")[0], "whole").points()[0].config
    assert whole.digest in {config.digest for config in changed}


def test_the_verdicts_on_limits():
    def row(change, accuracy):
        shared = group(80, 76, "adaptive", accuracy, [9000.0, "inf", "inf"], [1] * 3)
        return {"change": change, **shared, "alive": [round(80 * value) for value in accuracy]}

    rows = [row(limits.AS_IS, [0.96, 0.9, 0.91]), row("other", [0.96, 0.99, 0.949])]
    claims = limits.claims(json.loads(json.dumps({"groups": rows})))
    assert [claim.verdict for claim in claims] == ["not reached", "not run"]  # of three networks
    rows[1] = row("other", [0.96, 0.99, 0.95])
    assert [claim.verdict for claim in limits.claims({"groups": rows})] == [UNDECIDED, "not run"]
    ten = [0.9 + i / 100 for i in range(9)] + [0.5]
    rows[0] = {**rows[0], "seed": list(range(10)), "final_accuracy": ten, "alive": [70 + i for i in range(9)] + [60]}
    assert limits.claims({"groups": rows})[1].verdict == "holds"
    assert [claim.verdict for claim in limits.claims({"groups": rows[1:]})] == ["not run", "not run"]
    assert limits.draw({"groups": rows}).axes


def test_training_ends_early_but_at_the_first_place():
    first, *others = [
        spec_of.points()[0].config for spec_of in frontier.specs("laptop")[: -1 : len(schedules.SCHEDULES)]
    ]
    assert first.stopping == Config().stopping  # pyright: ignore[reportAttributeAccessIssue]
    assert {config.stopping for config in others} == {StoppingConfig(stop_at=0.98, give_up_after=5000)}  # pyright: ignore[reportAttributeAccessIssue, reportUnhashable]


def test_the_table():
    rows = [group(80, 76, "none", [0.5, 0.51, 0.5], ["inf"] * 3, [0] * 3), GROUPS[1], GROUPS[3]]
    head, *told = frontier.table({"groups": rows})
    assert head[:3] == ["N", "d", "Schedule"]
    assert [row[1:4] for row in told] == [
        ["40", "reference schedule", "3 of 3"],
        ["76", "no flossing", "0 of 3"],
        ["76", "periodic flossing", "0 of 10"],
    ]
    assert told[0][4:] == ["0.990 (0.990 to 0.990)", "500", "2", "1"]
    assert told[1][4:6] == ["0.500 (0.500 to 0.510)", "–"]
    text = page({"frontier": find_figures()["frontier"]}, {"frontier": content({"groups": rows})})
    assert "| 80 | 76 | no flossing | 0 of 3 | 0.500 (0.500 to 0.510) | – | 0 | 1 |" in text


def test_the_verdicts_on_memory():
    row = {"x": [0, 1], "low": [0.9, 0.1], "middle": [1, 0.2], "high": [1, 0.3]}
    rows = [
        {"kind": kind, "memory": row, "capacity": values}
        for kind, values in (
            ("as drawn", range(10, 16)),
            (capacity.LONG, range(20, 32, 2)),
            ("adaptive", [19] * 6),
        )
    ]
    both = {"parity_memory": row, "parity_capacity": [38] * 6}
    rows.append({"kind": "whole", "memory": row, "capacity": [39] * 6, **both})
    data = {"units": 80, "apart": 38, "rows": rows}
    assert [claim.verdict for claim in capacity.claims(data)] == ["holds", "fails", "holds"]
    assert {claim.verdict for claim in capacity.claims({"units": 80, "rows": rows[:1]})} == {"not run"}
    assert capacity.draw(data).axes


def test_beyond_the_frontier_training_is_longer_and_delays_are():
    for spec in beyond.specs("laptop"):
        for config in (point.config for point in spec.points()):
            assert config.longest_lag >= config.network.units == config.k  # pyright: ignore[reportAttributeAccessIssue]
    setting = schedules.Setting(80, [40], 3)
    within = frontier.spec_of("laptop", setting, "whole").points()[0].config
    changed = [
        {name: there for name, (_, there) in within.differences(spec.points()[0].config).items()}
        for spec in beyond.specs("laptop")[1::2]
    ]
    assert changed == [{"epochs": 40_000}, {"epochs": 40_000, "decay": 20_000}, {"decay": 5000}]
    assert len(beyond.specs("tiny")) == 3


def test_the_verdicts_on_delays_beyond_the_size():
    def rows(*accuracies):
        return [
            {**group(80, d, "whole", each, ["inf"] * 3, [1] * 3), "trained": beyond.CONSTANT}
            for d, each in zip((80, 84), accuracies, strict=True)
        ]

    def verdict(groups):
        return [claim.verdict for claim in beyond.claims({"groups": groups, "curves": []})]

    assert verdict(rows([0.95, 0.96, 0.99], [0.949, 0.5, 0.5])) == [UNDECIDED, "not reached", "not run", "not run"]
    assert verdict(rows([0.95, 0.94, 0.99], [0.951, 0.5, 0.5]))[:2] == ["not reached"] * 2
    assert verdict([]) == ["not run"] * 4
    falling = [{**row, "trained": beyond.DECAY_40K} for row in rows([0.96] * 3, [0.96] * 3)]
    assert verdict(rows([0.96] * 3, [0.9] * 3) + falling)[2:] == ["not run", UNDECIDED]
    data = {"groups": rows([0.95, 0.96, 0.99], [0.9, 0.5, 0.5])}
    curve = {"units": 80, "d": 84, "seed": 1, "epoch": [1.0, 9.0], "accuracy": [0.5, 0.9]}
    data["curves"] = [{**curve, "trained": beyond.CONSTANT}]
    assert len(beyond.draw(data).axes) == 3
    assert [row[3:5] for row in beyond.table(data)[1:]] == [
        ["adaptive, all directions", "3 of 3"],
        ["adaptive, all directions", "0 of 3"],
    ]


def test_larger_networks_are_the_frontiers_with_little_changed():
    as_it_is, slower, batches, goal = ([p.config for p in spec.points()] for spec in larger.specs("laptop"))
    setting = frontier.settings("laptop")[-1]
    theirs = {point.config.digest for point in frontier.spec_of("laptop", setting, "whole").points()}
    assert {config.digest for config in as_it_is} < theirs  # those of the frontier are not run again
    longer = [config for config in slower if config.longest_lag == 152]  # pyright: ignore[reportAttributeAccessIssue]
    assert (len(longer), len(batches)) == (3, 6)
    pairs = (as_it_is, slower, {"learning_rate"}), (longer, batches, {"batch"})
    for before, after, changed in (*pairs, (batches, goal, {"batch", "threshold", "decay"})):
        for one, other in zip(before, after, strict=False):
            assert set(one.differences(other)) == changed
    assert [config.seeds.seed_network for config in goal] == list(range(1, 11))


def test_the_verdicts_on_larger_networks():
    first, slower, larger_batches, goal = larger.CHANGES

    def verdicts(*rows):
        groups = [
            {"change": change, **group(160, d, "whole", accuracy, [900.0] * len(accuracy), [1] * len(accuracy))}
            for change, d, accuracy in rows
        ]
        data = {"groups": groups, "curves": []}
        assert larger.draw(data).axes
        assert len(larger.table(data)) == len(rows) + 1
        return [claim.verdict for claim in larger.claims(data)]

    solved, none = [0.95, 0.96, 0.99] * 2, [0.5, 0.94, 0.5] * 2
    assert verdicts() == ["not run"] * 3
    assert verdicts((first, 120, none), (slower, 120, solved)) == ["holds", "not run", "not run"]
    assert verdicts((first, 120, none), (slower, 152, solved)) == ["not run"] * 3
    rows = (slower, 120, solved), (larger_batches, 120, solved), (slower, 152, none)
    assert verdicts(*rows, (larger_batches, 152, solved)) == ["not run", "holds", "not run"]
    assert verdicts(*rows, (larger_batches, 152, none)) == ["not run", UNDECIDED, "not run"]
    rows = (larger_batches, 152, none), (goal, 152, solved)
    assert verdicts(*rows) == ["not run", "not run", UNDECIDED]
