"""Merge new data with stored data of runs whose directories no longer exist.

If a row names its runs, each of its numbers belongs to one network, and rows can be merged. A figure of hundreds of
runs can thus grow over many sessions and machines from its data alone. Quartiles over networks cannot be extended: they
need all runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flossing_lab.paper.contract import Data

RUN = "run"
"""The digest of a row's run, or a list of its networks' digests; all other lists in the row are as long."""

Row = Mapping[str, Any]


def known_runs(data: Data) -> frozenset[str]:
    """The digests that occur in every list of `data`; empty if any part of `data` names no run."""
    if not _name_runs(data):
        return frozenset()
    return frozenset.intersection(
        *(frozenset(digest for row in rows for digest in _runs(row)) for rows in data.values())
    )


def merge_data(before: Data, now: Data, wanted: Sequence[str]) -> Data:
    """`now` plus the rows of `before` for other runs; only digests in `wanted` are included, in that order."""
    if not (_name_runs(before) and _name_runs(now)):
        return now
    order = {digest: place for place, digest in reversed(list(enumerate(wanted)))}
    return {name: _merge_rows(before.get(name, []), rows, order) for name, rows in now.items()}


def _name_runs(data: Data) -> bool:
    return bool(data) and all(isinstance(rows, list) and all(RUN in row for row in rows) for rows in data.values())


def _runs(row: Row) -> list[str]:
    return [row[RUN]] if isinstance(row[RUN], str) else row[RUN]


def _merge_rows(before: Sequence[Row], now: Sequence[Row], order: Mapping[str, int]) -> list[Row]:
    """The rows of `now`, and those of `before` for runs that are not in `now`."""
    newer = {digest for row in now for digest in _runs(row)}
    if any(isinstance(row[RUN], str) for row in (*before, *now)):
        rows = [*(row for row in before if row[RUN] not in newer), *now]
        return sorted((row for row in rows if row[RUN] in order), key=lambda row: order[row[RUN]])
    older = [network for row in before for network in _networks(row) if network.own[RUN] not in newer]
    networks = [*older, *(network for row in now for network in _networks(row))]
    chosen = [network for network in networks if network.own[RUN] in order]
    return _rows_of_networks(sorted(chosen, key=lambda network: order[network.own[RUN]]))


class Network(NamedTuple):
    """One network of a row that lists several: the values all its networks share, and its own."""

    shared: tuple[tuple[str, Any], ...]
    own: Row


def _networks(row: Row) -> Iterator[Network]:
    """The networks of a row."""
    shared = tuple((name, value) for name, value in row.items() if not isinstance(value, list))
    for index in range(len(row[RUN])):
        yield Network(shared, {name: values[index] for name, values in row.items() if isinstance(values, list)})


def _rows_of_networks(networks: Sequence[Network]) -> list[Row]:
    """The inverse of `_networks`: networks with the same shared values, and values of the same names, form one row."""
    rows: dict[tuple, list[Row]] = {}
    for shared, own in networks:
        rows.setdefault((shared, tuple(own)), []).append(own)
    return [
        {**dict(shared), **{name: [own[name] for own in each] for name in names}}
        for (shared, names), each in rows.items()
    ]
