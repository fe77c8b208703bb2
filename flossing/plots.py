"""Plots of results, of JAX and of PyTorch; needs matplotlib, `pip install 'flossing[plots]'`.

Each function draws into `ax`, by default the axes of a new figure of pyplot, and returns it.
"""

from typing import Any

import numpy as np

from flossing._arguments import check_integer
from flossing._views import as_numpy, errors_of, mean_and_error, unit_of

GREY = "0.75"


def spectrum(spectrum: Any, other: Any = None, *, labels: tuple[str, str] | None = None, ax: Any = None) -> Any:
    """Exponents against their index, with two standard errors; those of an `other` spectrum beside them.

    Errors are those of time averages, by batch means, or for many sequences those of their mean. Runs that are too
    short for an error have none. `labels` names the two.

        ax = fl.plots.spectrum(fl.lyapunov_spectrum(before, inputs), fl.lyapunov_spectrum(after, inputs))
    """
    ax = _axes(ax)
    ax.axhline(0, color=GREY, lw=0.8, zorder=0)
    for number, each in enumerate(one for one in (spectrum, other) if one is not None):
        exponents, errors = mean_and_error(each)
        i, label = np.arange(1, len(exponents) + 1), None if labels is None else labels[number]
        style = {"color": f"C{number}", "label": label, "lw": 1.2, "ms": 3, "fmt": ".-"}
        ax.errorbar(i, exponents, None if errors is None else 2 * errors, **style, capsize=0)
    ax.set(xlabel="index $i$", ylabel=rf"$\lambda_i$ ({unit_of(spectrum)}, natural log.)")
    return _finished(ax, labels)


def convergence(spectrum: Any, *, count: int = 8, sequence: int = 0, ax: Any = None) -> Any:
    """The running mean of some exponents against time, in bands of two standard errors
    around their last values.

    `count`: how many exponents, evenly spaced from the first to the last; `sequence`: which one of a batch.

        ax = fl.plots.convergence(fl.lyapunov_spectrum(cell, inputs))
    """
    check_integer("count", count, least=1)
    ax, mean, errors = _axes(ax), as_numpy(spectrum.running_mean()), errors_of(spectrum)
    mean = mean if mean.ndim == 2 else mean[sequence]
    errors = errors if errors is None or errors.ndim == 1 else errors[sequence]
    steps = np.minimum(np.arange(1, len(mean) + 1) * spectrum.interval, spectrum.steps) * spectrum.time_step
    for number, i in enumerate(np.unique(np.linspace(0, mean.shape[1] - 1, count).round().astype(int))):
        ax.plot(steps, mean[:, i], color=f"C{number % 10}", lw=1.2, label=rf"$\lambda_{{{i + 1}}}$")
        if errors is not None and np.isfinite(errors[i]):
            low, high = mean[-1, i] - 2 * errors[i], mean[-1, i] + 2 * errors[i]
            ax.axhspan(low, high, color=f"C{number % 10}", alpha=0.15, lw=0)
    label = "steps averaged" if spectrum.time_step == 1 else "time averaged"
    ax.set(xlabel=label, ylabel=rf"running mean of $\lambda_i$ ({unit_of(spectrum)})")
    ax.set_xscale("log" if len(mean) > 1000 else "linear")
    _finished(ax, True).legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def flossing(history: Any, *, ax: Any = None) -> Any:
    """All flossed exponents against the flossing epoch; the first and the last exponent are marked.

    Those of several sequences are averaged.

        ax = fl.plots.flossing(fl.floss(cell, inputs, k=16)[1])
    """
    ax, exponents = _axes(ax), as_numpy(history.exponents)
    exponents = exponents if exponents.ndim == 2 else exponents.mean(1)
    epochs = np.arange(1, len(exponents) + 1)
    ax.axhline(0, color=GREY, lw=0.8, zorder=0)
    ax.plot(epochs, exponents[:, 1:-1], color="C0", lw=0.5, alpha=0.4)
    ax.plot(epochs, exponents[:, 0], color="C0", lw=1.5, label=r"$\lambda_1$")
    if exponents.shape[1] > 1:
        ax.plot(epochs, exponents[:, -1], color="C1", lw=1.5, label=rf"$\lambda_{{{exponents.shape[1]}}}$")
    ax.set(xlabel="flossing epoch", ylabel=r"$\lambda_i$ (per step, natural log.)")
    return _finished(ax, True)


def gradient_norms(norms: Any, other: Any = None, *, labels: tuple[str, str] | None = None, ax: Any = None) -> Any:
    """The norm of the backpropagated gradient against the lag, relative to the last step; logarithmic, any size.

    `norms`, `other`: of `backpropagated_norms`. A dotted line marks where a plain reverse pass overflows.

        ax = fl.plots.gradient_norms(fl.backpropagated_norms(cell, inputs, lambda h: (h[-1] ** 2).sum()))
    """
    ax = _axes(ax)
    for number, each in enumerate(one for one in (norms, other) if one is not None):
        log_norm = as_numpy(each.log_norm)[::-1] / np.log(10)
        style = {"color": f"C{number}", "label": None if labels is None else labels[number], "lw": 1.5}
        ax.plot(np.arange(len(log_norm)), log_norm - log_norm[0], **style)
        if each.overflows:
            ax.axhline(each.log_largest / np.log(10) - log_norm[0], color=f"C{number}", lw=0.8, ls=":")
    ax.set(
        xlabel="lag (steps back from the end)", ylabel=r"$\log_{10}\ |\partial L/\partial h_t|$, relative to the end"
    )
    return _finished(ax, labels)


def condition_number(jacobian: Any, exponents: Any = None, *, k: int | None = None, ax: Any = None) -> Any:
    """The condition number of the long-term Jacobian in its first `k` directions, against the horizon.

    With `exponents`, at least k of them, a dashed line shows the prediction (lambda_1 - lambda_k) t.

        ax = fl.plots.condition_number(fl.long_term_jacobian(cell, inputs), k=16)
    """
    ax, horizons = _axes(ax), as_numpy(jacobian.horizons)
    k = int(jacobian.log_singular_values.shape[-1]) if k is None else k
    measured = as_numpy(jacobian.log_condition(k)) / np.log(10)
    marker = ".-" if len(horizons) < 60 else "-"
    (line,) = ax.plot(horizons, measured, marker, lw=1.5, label=f"measured, k = {k}")
    if exponents is not None:
        predicted = as_numpy(jacobian.predicted_log_condition(as_numpy(exponents)[:k], k)) / np.log(10)
        ax.plot(horizons, predicted, "--", color=line.get_color(), lw=1.2, label=rf"$(\lambda_1 - \lambda_{{{k}}})\,t$")
    ax.set(xlabel="horizon $t$ (steps)", ylabel=r"$\log_{10}$ condition number of $T_t$")
    return _finished(ax, True)


def angles(vectors: Any, *, pairs: Any = ((0, 1),), bins: int = 40, ax: Any = None) -> Any:
    """Histograms of the angle between pairs of covariant vectors along the orbit, in degrees.

    `vectors`: of `covariant_vectors`, with vectors, or with the angles of `measure=fl.angles_between`. `pairs`: indices
    from 0. An orbit whose angles come close to 0 has near tangencies.

        ax = fl.plots.angles(fl.covariant_vectors(cell, inputs, k=4), pairs=[(0, 1), (0, 3)])
    """
    ax = _axes(ax)
    for i, j in pairs:
        if vectors.vectors is not None:
            v = as_numpy(vectors.vectors)
            # The arc cosine of the product would lose half the digits of a small angle.
            apart, together = (np.linalg.norm(v[..., i] + sign * v[..., j], axis=1) for sign in (-1, 1))
            found = 2 * np.arctan2(np.minimum(apart, together), np.maximum(apart, together))
        else:
            measured = as_numpy(vectors.measured)
            if measured is None or measured.ndim != 3:
                raise ValueError(
                    "vectors must hold vectors, or be measured with measure=fl.angles_between, got neither"
                )
            found = measured[:, i, j]
        label = f"vectors {i + 1} and {j + 1}"
        ax.hist(np.degrees(found), np.linspace(0, 90, bins + 1), histtype="step", lw=1.5, density=True, label=label)
    ax.set(xlabel="angle (degrees)", ylabel="density", xlim=(0, 90))
    return _finished(ax, True)


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'flossing[plots]'") from None
    return plt.subplots()[1]


def _finished(ax: Any, labels: Any) -> Any:
    ax.spines[["top", "right"]].set_visible(False)
    if labels:
        ax.legend(frameon=False, fontsize="small")
    return ax
