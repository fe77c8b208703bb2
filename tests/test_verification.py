"""The fast checks of `make verify`, and the table's arithmetic: rows must be able to fail."""

import jax
import numpy as np
import pytest

import flossing as fl
from verification import maps
from verification.modules import MODULES
from verification.page import TITLES, page
from verification.rows import average, ensemble, exact, nth, worst

CHECKS = [check for module in MODULES for check in module.FAST]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_row_holds(check):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        rows = check()
    assert rows
    failing = [f"{row.system}: {row.quantity}, off by {row.deviation}" for row in rows if not row.holds]
    assert not failing


def test_rows_can_fail():
    assert exact("", "", 1.0, "", 1.0 + 1e-10).holds
    assert not exact("", "", 1.0, "", 1.0 + 1e-8).holds
    assert not exact("", "", 1.0, "", np.nan).holds
    assert not exact("", "", 1.0, "", np.inf).holds
    assert exact("", "", -np.inf, "", -np.inf).holds
    row = worst("", "", [1.0, 2.0, 3.0], "", [1.0, 2.5, 3.1])
    assert (row.reference, row.ours, row.holds) == (2.0, 2.5, False)
    values = np.random.default_rng(0).normal(size=100)
    assert ensemble("", "", 0.0, "", values).holds
    assert not ensemble("", "", 1.0, "", values).holds
    spectrum = fl.lyapunov_spectrum(maps.henon, None, state=np.full(2, 0.1), steps=20_000, transient=100)
    assert average("", "", 0.419217, "", spectrum).holds
    assert not average("", "", 0.5, "", spectrum).holds


def test_the_page_shows_each_row_in_its_section_and_marks_what_fails():
    held, lost = exact("tent |map|", nth(12), 1.0, "exact", 1.0), exact("cat", "λ₁", 1.0, "exact", 0.5)
    written = page({"maps": [held, exact("reset", "λ₁", -np.inf, "exact", -np.inf)], "flows": [lost]})
    assert "2 of 3 rows hold" in written
    before, _, after = written.partition(f"## {TITLES['flows']}")
    assert "| tent \\|map\\| | λ₁₂ | 1 | exact | 1 |" in before
    assert "| reset | λ₁ | −∞ | exact | −∞ |  |  |  |" in before
    assert "**fails**: 0.5" in after
    assert "**fails**" not in before
