"""A row of the table, and the ways to compare a number with its reference."""

import dataclasses
import math

import numpy as np

LIMIT = 4.0
"""Largest deviation of an average from its reference, in standard errors."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison. `allowed` is the largest deviation, in the unit of the value, and `because` its reason."""

    system: str
    quantity: str
    reference: float
    source: str
    ours: float
    standard_error: float | None
    allowed: float
    because: str

    @property
    def deviation(self) -> float:
        return self.ours - self.reference

    @property
    def deviation_in_errors(self) -> float | None:
        return self.deviation / self.standard_error if self.standard_error else None

    @property
    def holds(self) -> bool:
        return bool(math.isfinite(self.ours) and abs(self.deviation) <= self.allowed) or self.ours == self.reference


def exact(system, quantity, reference, source, ours, *, allowed=1e-9, because="rounding") -> Row:
    """An identity that holds up to `allowed`, for the stated reason."""
    return Row(system, quantity, float(reference), source, float(ours), None, allowed, because)


def worst(system, quantity, references, source, ours, **limits) -> Row:
    """Many identities in one row, represented by the largest deviation."""
    references, ours = np.broadcast_arrays(np.asarray(references, float), np.asarray(ours, float))
    deviation = np.where(ours == references, 0, np.abs(ours - references))
    index = np.unravel_index(np.argmax(np.where(np.isnan(deviation), np.inf, deviation)), ours.shape)
    return exact(system, f"{quantity}, worst of {ours.size}", references[index], source, ours[index], **limits)


def average(system, quantity, reference, source, spectrum, index=0, *, systematic=0.0, because="") -> Row:
    """A time average with its error bar from batch means, plus a known systematic error."""
    result = spectrum.uncertainty()
    error = float(result.standard_error[index])
    kind = "4 s.e., an upper bound, since the average converges like 1/T" if result.is_upper_bound[index] else "4 s.e."
    reason = f"{kind} + {because}" if because else kind
    ours = float(spectrum.exponents[index])
    return Row(system, quantity, float(reference), source, ours, error, LIMIT * error + systematic, reason)


def ensemble(system, quantity, reference, source, values, *, systematic=0.0, because="") -> Row:
    """The mean over independent systems, with its standard error."""
    values = np.asarray(values, float)
    error = float(values.std(ddof=1) / math.sqrt(len(values)))
    reason = f"4 s.e. over {len(values)}" + (f" + {because}" if because else "")
    return Row(
        system, quantity, float(reference), source, float(values.mean()), error, LIMIT * error + systematic, reason
    )


def nth(index: int) -> str:
    """λ with a subscript, from 1."""
    return "λ" + str(index).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
