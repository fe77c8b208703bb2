"""Measures of a network that balances itself: pure functions of its weights and states, in NumPy.

J[i, j] is the coupling from neuron j to neuron i, so a column holds the outgoing couplings of one neuron.

Source: Engelken et al. (NeurIPS 2022), released code; docs/balance.md lists the differences.
"""

import importlib.util
import warnings

import numpy as np
from numpy.typing import NDArray


def tightness(J: np.ndarray, J_start: np.ndarray) -> float:
    """Tightness of balance: mean coupling divided by initial mean coupling, over whole matrices with diagonals."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a single unit has no coupling
        return float(J.mean() / J_start.mean())


def require_clustering():
    """Raise ValueError if the extra with scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise ValueError("clusters of neurons need the extra [lab]: pip install 'flossing[lab]'")


def find_clusters(J: np.ndarray, count: int) -> np.ndarray:
    """The cluster of each neuron (N,), 0 to `count` - 1 in order of appearance: k-means on the columns of J.

    The random state is fixed, and the best of ten starts counts. There are fewer than `count` clusters if J has fewer
    distinct columns. Raises ValueError for more clusters than neurons.
    """
    if not 1 <= count <= len(J):
        raise ValueError(f"clusters must be at least 1 and at most units={len(J)}, got clusters={count}")
    if count == 1:
        return np.zeros(len(J), int)
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans = KMeans(count, n_init=10, random_state=0)  # pyright: ignore[reportArgumentType]
        found = kmeans.fit_predict(np.asarray(J.T, np.float64)).tolist()
    order = {cluster: number for number, cluster in enumerate(dict.fromkeys(found))}
    return np.array([order[cluster] for cluster in found])


def mean_couplings(J: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Mean coupling within and between clusters, over all pairs (i, j); NaN between if there is but one cluster.

    Pairs i = j, whose coupling is zero, count as within a cluster, as in the released code.
    """
    same = clusters[:, None] == clusters[None, :]
    return float(J[same].mean()), float(J[~same].mean()) if not same.all() else float("nan")


def eigenvalues(J: np.ndarray, x: np.ndarray) -> NDArray[np.complex128]:
    """Eigenvalues of J diag(phi'(x)), phi the rectifier, at each of several states x (..., N), sorted by real part."""
    values = np.linalg.eigvals(np.asarray(J, np.float64) * (x > 0)[..., None, :]).astype(np.complex128)
    return np.take_along_axis(values, np.argsort(values.real, axis=-1), axis=-1)


def outliers(values: NDArray[np.complex128], count: int) -> np.ndarray:
    """Real parts of the `count` leftmost eigenvalues at each of M states, from left to right: (M, N) -> (M, count).

    A mean over states is a mean by rank. Where outliers swap ranks, it lies further left for the first rank, and
    further right for the last, than the mean of any single outlier. The mean over all ranks is unbiased.
    """
    return values.real[:, :count]


def weight_correlations(ws: np.ndarray, wr: np.ndarray) -> np.ndarray:
    """Pearson correlation, over neurons, of each readout's weights (O, N) with each input's (N, S): (O, S)."""
    readouts, inputs = wr - wr.mean(axis=1, keepdims=True), ws - ws.mean(axis=0)
    with np.errstate(invalid="ignore"):  # equal weights have no correlation
        return readouts @ inputs / np.outer(np.linalg.norm(readouts, axis=1), np.linalg.norm(inputs, axis=0))
