"""What data keep of runs whose directories are no longer there.

A row that names its runs stands for itself: each of its numbers is of one network. A map of hundreds of runs can then
grow over many sittings and machines, from its data alone. Quartiles over networks cannot be added to: they need all
runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flossing_lab.paper.contract import Data

RUN = "run"
"""The digest of the run that a row is of; or those of its networks, and each list beside it is as long as theirs."""

Row = Mapping[str, Any]


def known_runs(data: Data) -> frozenset[str]:
    """The digests of the runs that all lists of `data` know; none if there is anything in `data` that names no run."""
    if not _name_runs(data):
        return frozenset()
    return frozenset.intersection(
        *(frozenset(digest for row in rows for digest in _runs(row)) for rows in data.values())
    )


def merge_data(before: Data, now: Data, wanted: Sequence[str]) -> Data:
    """`now`, and what `before` has of other runs that are among the digests `wanted`, in their order."""
    if not (_name_runs(before) and _name_runs(now)):
        return now
    order = {digest: place for place, digest in reversed(list(enumerate(wanted)))}
    return {name: _joined(before.get(name, []), rows, order) for name, rows in now.items()}


def _name_runs(data: Data) -> bool:
    return bool(data) and all(isinstance(rows, list) and all(RUN in row for row in rows) for rows in data.values())


def _runs(row: Row) -> list[str]:
    return [row[RUN]] if isinstance(row[RUN], str) else row[RUN]


def _joined(before: Sequence[Row], now: Sequence[Row], order: Mapping[str, int]) -> list[Row]:
    newer = {digest for row in now for digest in _runs(row)}
    if any(isinstance(row[RUN], str) for row in (*before, *now)):
        rows = [*(row for row in before if row[RUN] not in newer), *now]
        return sorted((row for row in rows if row[RUN] in order), key=lambda row: order[row[RUN]])
    older = [(shared, own) for row in before for shared, own in _networks(row) if own[RUN] not in newer]
    networks = [*older, *(network for row in now for network in _networks(row))]
    groups: dict[tuple, list[Row]] = {}
    for shared, own in sorted(
        (each for each in networks if each[1][RUN] in order), key=lambda each: order[each[1][RUN]]
    ):
        groups.setdefault((shared, tuple(own)), []).append(own)
    return [
        {**dict(shared), **{name: [own[name] for own in each] for name in names}}
        for (shared, names), each in groups.items()
    ]


def _networks(row: Row) -> Iterator[tuple[tuple, Row]]:
    """Each network of a row: what it shares with the others, and what it has of its own."""
    shared = tuple((name, value) for name, value in row.items() if not isinstance(value, list))
    for index in range(len(row[RUN])):
        yield shared, {name: values[index] for name, values in row.items() if isinstance(values, list)}
