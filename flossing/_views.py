"""Results as text, as pandas data frames and as xarray datasets; for both ecosystems, needs no JAX."""

import importlib
from typing import Any

import numpy as np

from flossing._estimate import MIN_BLOCKS_FOR_ERROR


def as_numpy(values: Any) -> np.ndarray:
    """An array of NumPy from one of JAX, of torch, or from numbers."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def errors_of(spectrum: Any) -> np.ndarray | None:
    """The standard errors of a spectrum by batch means (k,), or (B, k); None if the run is too short for them."""
    found = _uncertainty_of(spectrum)
    return None if found is None else as_numpy(found.standard_error)


def _uncertainty_of(spectrum: Any) -> Any:
    enough = spectrum.steps // spectrum.interval >= MIN_BLOCKS_FOR_ERROR
    return spectrum.uncertainty() if enough and spectrum.steps_of_each is None else None


def _upper_bounds(spectrum: Any) -> np.ndarray:
    """Which errors of `mean_and_error` are upper bounds (k,)."""
    found = _uncertainty_of(spectrum) if spectrum.exponents.ndim == 1 else None
    return np.zeros(spectrum.exponents.shape[-1], bool) if found is None else as_numpy(found.is_upper_bound)


def mean_and_error(spectrum: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The exponents (k,) with their errors; of many sequences the mean, and its error over sequences."""
    exponents = as_numpy(spectrum.exponents)
    if exponents.ndim == 1:
        return exponents, errors_of(spectrum)
    return exponents.mean(0), as_numpy(spectrum.standard_error()) if len(exponents) > 1 else None


def describe_spectrum(spectrum: Any) -> str:
    """A spectrum in one line: its first and last exponent, their errors, and over how many steps."""
    exponents, errors = mean_and_error(spectrum)
    bounds = _upper_bounds(spectrum)
    shown = [_with_error(exponents, errors, bounds, i) for i in sorted({0, len(exponents) - 1})]
    count = tuple(as_numpy(spectrum.exponents).shape)
    many = f", mean of {count[0]} sequences" if len(count) > 1 else ""
    remark = " (too few for errors)" if len(count) == 1 and errors is None else ""
    steps = f"{_steps_of(spectrum)} steps{remark}"
    return f"Spectrum(k={len(exponents)}: {' ... '.join(shown)} {unit_of(spectrum)}{many}, over {steps})"


def unit_of(spectrum: Any) -> str:
    """The unit of the exponents, in words."""
    return "per step" if spectrum.time_step == 1 else "per unit of time"


def _steps_of(spectrum: Any) -> str:
    """The number of steps averaged, or the smallest and the largest of sequences of several lengths."""
    if spectrum.steps_of_each is None:
        return str(spectrum.steps)
    lengths = as_numpy(spectrum.steps_of_each)
    return f"{lengths.min()} to {lengths.max()}"


def describe_covariant(found: Any) -> str:
    """Covariant vectors in one line: the outermost exponents, the number of states, what is stored of each."""
    exponents, states = as_numpy(found.exponents), len(found.log_growth)
    ends = " ... ".join(f"{exponents[i]:+.4f}" for i in sorted({0, len(exponents) - 1}))
    stored = "measured" if found.vectors is None else f"vectors {tuple(found.vectors.shape)}"
    return f"CovariantVectors(k={len(exponents)}: exponents {ends}, at {states} states; {stored})"


def describe_uncertainty(found: Any) -> str:
    """Errors in one line: their smallest and largest, and the degrees of freedom."""
    errors = as_numpy(found.standard_error)
    shown = f"{np.nanmin(errors):.2g} ... {np.nanmax(errors):.2g}" if np.isfinite(errors).any() else "NaN"
    return f"Uncertainty(standard_error {shown}, shape {errors.shape}; {found.degrees_of_freedom} degrees of freedom)"


def spectrum_table(spectrum: Any) -> str:
    """All exponents with their index and error, in columns; an error that is an upper bound has a `<`."""
    exponents, errors = mean_and_error(spectrum)
    bounds = _upper_bounds(spectrum)
    columns = 5 if errors is None else 3
    rows = -(-len(exponents) // columns)
    cells = [f"{i + 1:>4}  {_with_error(exponents, errors, bounds, i)}" for i in range(len(exponents))]
    width = max(map(len, cells))
    return "\n".join("   ".join(cell.ljust(width) for cell in cells[row::rows]).rstrip() for row in range(rows))


def spectrum_frame(spectrum: Any) -> Any:
    """A pandas DataFrame with columns `exponent` and `standard_error`, indexed by i from 1, or by (sequence, i)."""
    pandas = _needed("pandas")
    exponents, errors = as_numpy(spectrum.exponents), errors_of(spectrum)
    errors = np.full(exponents.shape, np.nan) if errors is None else errors
    i = range(1, exponents.shape[-1] + 1)
    index = pandas.Index(i, name="i")
    if exponents.ndim > 1:
        index = pandas.MultiIndex.from_product([range(len(exponents)), i], names=["sequence", "i"])
    return pandas.DataFrame({"exponent": exponents.ravel(), "standard_error": errors.ravel()}, index)


def spectrum_dataset(spectrum: Any) -> Any:
    """An xarray Dataset with `exponents`, `standard_error` and `log_growth`."""
    xarray = _needed("xarray")
    exponents, errors = as_numpy(spectrum.exponents), errors_of(spectrum)
    errors = np.full(exponents.shape, np.nan) if errors is None else errors
    growth = as_numpy(spectrum.log_growth)
    several = ["sequence"] * (exponents.ndim - 1)
    return xarray.Dataset(
        {
            "exponents": ([*several, "i"], exponents, {"units": f"{unit_of(spectrum)}, natural logarithm"}),
            "standard_error": ([*several, "i"], errors),
            "log_growth": ([*several, "block", "i"], growth),
        },
        {"i": np.arange(1, exponents.shape[-1] + 1), "block": np.arange(growth.shape[-2])},
        {"steps": spectrum.steps, "interval": spectrum.interval, "time_step": spectrum.time_step},
    )


def describe_history(history: Any) -> str:
    """A flossing phase in one line: the loss and the outermost exponents, at its start and at its end."""
    loss, exponents = as_numpy(history.loss), as_numpy(history.exponents)
    exponents = exponents if exponents.ndim == 2 else exponents.mean(1)
    spans = (f"{row[0]:+.4f} ... {row[-1]:+.4f}" for row in (exponents[0], exponents[-1]))
    return (
        f"FlossingHistory({len(loss)} epochs, k={exponents.shape[-1]}: loss {loss[0]:.4g} -> {loss[-1]:.4g}, "
        f"exponents {' -> '.join(spans)} per step)"
    )


def history_frame(history: Any) -> Any:
    """A pandas DataFrame with one row per epoch, from 1: loss, gradient_norm, interval, exponent_1 ... exponent_k.

    The exponents of several sequences are averaged.
    """
    pandas = _needed("pandas")
    exponents = as_numpy(history.exponents)
    exponents = exponents if exponents.ndim == 2 else exponents.mean(1)
    columns = {name: as_numpy(getattr(history, name)) for name in ("loss", "gradient_norm", "interval")}
    columns |= {f"exponent_{i}": values for i, values in enumerate(exponents.T, 1)}
    return pandas.DataFrame(columns, pandas.RangeIndex(1, len(exponents) + 1, name="epoch"))


def _with_error(exponents: np.ndarray, errors: np.ndarray | None, bounds: np.ndarray, i: int) -> str:
    error, bound = np.nan if errors is None else errors[i], "<" if bounds[i] else ""
    return f"{exponents[i]:+.4f}" + (f" ± {bound}{error:.4f}" if np.isfinite(error) else "")


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"this needs {package}: pip install {package}") from None
