"""What data keep of runs whose directories are no longer there.

A row that names its runs stands for itself: each of its numbers is of one network. A map of hundreds of runs can then
grow over many sittings and machines, from its data alone. Quartiles over networks cannot be added to: they need all
runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flossing.experiment.paper.contract import Data

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


def with_kept(before: Data, now: Data, wanted: Sequence[str]) -> Data:
    """`now`, and what `before` has of other runs that are among the digests `wanted`, in their order."""
    if not (_name_runs(before) and _name_runs(now)):
        return now
    order = {digest: place for place, digest in reversed(list(enumerate(wanted)))}
    return {name: _joined([*before.get(name, []), *rows], order) for name, rows in now.items()}


def _name_runs(data: Data) -> bool:
    return bool(data) and all(isinstance(rows, list) and all(RUN in row for row in rows) for rows in data.values())


def _runs(row: Row) -> list[str]:
    return [row[RUN]] if isinstance(row[RUN], str) else row[RUN]


def _joined(rows: Sequence[Row], order: Mapping[str, int]) -> list[Row]:
    single = [row for row in rows if isinstance(row[RUN], str)]
    if single:
        newest = {row[RUN]: row for row in rows if row[RUN] in order}
        return sorted(newest.values(), key=lambda row: order[row[RUN]])
    networks = {(shared, own[RUN]): own for row in rows for shared, own in _networks(row) if own[RUN] in order}
    groups: dict[tuple, list[Row]] = {}
    for shared, digest in sorted(networks, key=lambda key: order[key[1]]):
        groups.setdefault(shared, []).append(networks[shared, digest])
    return [
        {**dict(shared), **{name: [own[name] for own in each] for name in each[0]}} for shared, each in groups.items()
    ]


def _networks(row: Row) -> Iterator[tuple[tuple, Row]]:
    """Each network of a row: what it shares with the others, and what it has of its own."""
    shared = tuple((name, value) for name, value in row.items() if not isinstance(value, list))
    for index in range(len(row[RUN])):
        yield shared, {name: values[index] for name, values in row.items() if isinstance(values, list)}
