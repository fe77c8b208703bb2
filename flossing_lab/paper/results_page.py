"""RESULTS.md: every claim with its measured numbers and verdict, from the figures' data alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from flossing_lab.paper.contract import Claim, FigureModule, TableModule, Verdict
from flossing_lab.runs import tables

_HEAD = """# Results, figure by figure

Written by `flossing paper`: every number below comes from runs and calculations of this library. Run the command again
to regenerate this page. Unless a caption says otherwise, curves and points are medians and bands are quartiles over
networks with different seeds. *n* is the number of networks behind each number, as a range where it varies. *d* is the
longest lag of a task, in steps.

A claim *holds* or *fails* if the test that is given with its numbers has p < 0.05: Wilcoxon's signed-rank test for
numbers of networks that are paired by their seeds, the exact binomial test for counts, Spearman's rank correlation, and
Holm's correction where a claim covers several cases. Otherwise it is *undecided at this n*: three networks cannot
decide anything. A goal is *reached* or *not reached*; nine of ten needs at least ten networks. A calculation without a
test holds or fails by its criterion.
"""

_MANY = 12  # further missing rows are counted, not listed


def page(figures: Mapping[str, FigureModule], contents: Mapping[str, Mapping[str, Any]]) -> str:
    """The page; `contents` are the available data files by figure."""
    claims = {name: _claims(figures[name], content) for name, content in contents.items()}
    sections = [_section(figures[name], contents.get(name), claims.get(name, [])) for name in figures]
    return "\n".join([_HEAD, _summary(figures, claims), *sections])


NOT_JUDGED: Verdict = "not judged"
"""The verdict at scale tiny, which only checks the machinery: its networks of 8 units train for 30 epochs."""


def _claims(figure: FigureModule, content: Mapping[str, Any]) -> list[Claim]:
    claims = figure.claims(content["data"])
    return [claim._replace(verdict=NOT_JUDGED) for claim in claims] if content["scale"] == "tiny" else list(claims)


def _summary(figures: Mapping[str, FigureModule], claims: Mapping[str, Sequence[Claim]]) -> str:
    rows = [("Figure", "Claim", "Verdict", "n")]
    for name in figures:
        rows += [(name, claim.claim, f"**{claim.verdict}**", str(claim.n)) for claim in claims.get(name, [])]
        if not claims.get(name):
            rows.append((name, figures[name].TITLE, "**not run**", "0"))
    return "\n".join(["## Summary", "", tables.markdown(rows), ""])


def _section(figure: FigureModule, content: Mapping[str, Any] | None, claims: Sequence[Claim]) -> str:
    lines = [f"## {figure.NAME}: {figure.TITLE}", ""]
    if content is None:
        return "\n".join([*lines, "Not run.", ""])
    runs, calculations = content["runs"], content["calculations"]
    if runs["made"] + calculations["made"]:
        lines += [f"![{figure.TITLE}]({figure.NAME}.png)", ""]
    lines += [figure.CAPTION, ""]
    if claims:
        cells = [[each.claim, each.found, str(each.n), f"**{each.verdict}**"] for each in claims]
        lines += [tables.markdown([["Claim", "Result", "n", "Verdict"], *cells]), ""]
    if isinstance(figure, TableModule) and len(table := figure.table(content["data"])) > 1:
        lines += [tables.markdown(table), ""]
    lines += [_provenance(content), ""]
    missing = content["missing"]
    if missing:
        listed = missing[:_MANY]
        more = [f"- and {len(missing) - _MANY} more such rows"] if len(missing) > _MANY else []
        lines += [
            f"{getattr(figure, 'MISSING', 'Not run')}:",
            "",
            *(f"- {tables.cell(row)}" for row in listed),
            *more,
            "",
        ]
    return "\n".join(lines)


def _provenance(content: Mapping[str, Any]) -> str:
    made = [
        f"{content[kind]['made']} of {content[kind]['wanted']} {kind}"
        for kind in ("runs", "calculations")
        if content[kind]["wanted"]
    ]
    where = content["provenance"]
    return (
        f"Scale {content['scale']}: {' and '.join(made)}. Last updated with flossing {where['flossing']}, "
        f"JAX {where['jax']}, {where['machine']}, {where['cores']} cores."
    )
