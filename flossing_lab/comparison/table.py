"""The results of the runs as Markdown tables."""

import statistics
from collections.abc import Sequence
from typing import Any

from flossing_lab.comparison.protocol import Protocol

Run = dict[str, Any]

HEAD = ("network", "without", "with flossing", "better", "λ₁, λₖ at the start", "flossed", "seconds")
SAID = {
    "loss": "Loss, less is better; {:.3g} without memory.",
    "accuracy": "Accuracy, more is better; {:.3g} by chance.",
}


def markdown(protocol: Protocol, runs: Sequence[Run]) -> str:
    """One table per task, one row per network; networks without runs in both arms are left out."""
    parts = []
    for name, task in protocol.tasks.items():
        found = {network: paired(protocol, runs, name, network) for network in protocol.networks}
        rows = [_row(pairs, task.measure, network) for network, pairs in found.items() if pairs]
        if rows:
            lines = [HEAD, ("---",) * len(HEAD), *rows]
            table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
            parts.append(f"### {task.title}\n\n{SAID[task.measure].format(task.trivial)}\n\n{table}")
    return "\n\n".join(parts)


def paired(protocol: Protocol, runs: Sequence[Run], task: str, network: str) -> list[tuple[Run, Run]]:
    """The runs of one row, without and with flossing, for each of the table's seeds that has both."""
    found = {(run["condition"], run["seed"]): run for run in runs if (run["task"], run["network"]) == (task, network)}
    both = [seed for seed in protocol.seeds if ("without", seed) in found and ("with", seed) in found]
    return [(found["without", seed], found["with", seed]) for seed in both]


def _row(pairs: list[tuple[Run, Run]], measure: str, network: str) -> tuple[str, ...]:
    without, flossed = ([pair[i] for pair in pairs] for i in (0, 1))
    return (
        network,
        _values(without, measure),
        _values(flossed, measure),
        f"{sum(is_better(b, a, measure) for a, b in pairs)} of {len(pairs)}",
        _exponents(flossed, "start"),
        _exponents(flossed, "flossed"),
        f"{_seconds(without)}, {_seconds(flossed)}",
    )


def is_better(run: Run, other: Run, measure: str) -> bool:
    """Whether `run` ended better than `other`; a failed run is never better."""
    if run["failure"] or other["failure"]:
        return not run["failure"]
    return run[measure] > other[measure] if measure == "accuracy" else run[measure] < other[measure]


def _values(runs: list[Run], measure: str) -> str:
    good = [run[measure] for run in runs if not run["failure"]]
    failed = f"{len(runs) - len(good)} failed" if len(good) < len(runs) else ""
    if not good:
        return failed
    text = f"{statistics.median(good):.3f} ({min(good):.3f} to {max(good):.3f})"
    return f"{text}, {failed}" if failed else text


def _exponents(runs: list[Run], when: str) -> str:
    ends = [[float(value) for value in run["exponents"][when]] for run in runs if when in run["exponents"]]
    return ", ".join(f"{statistics.median(values):.2f}" for values in zip(*ends, strict=True))


def _seconds(runs: list[Run]) -> str:
    return f"{statistics.median(sum(run['seconds'].values()) for run in runs):.0f}"
