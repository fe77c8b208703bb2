"""What is measured of a network that balances itself: pure functions of its weights and states, in NumPy.

J has the coupling from neuron j to neuron i at [i, j], so that a column is what one neuron sends to all.

Source: Engelken et al. (NeurIPS 2022), released code, which measures the same but for what docs/balance.md lists.
"""

import importlib.util
import warnings

import numpy as np
from numpy.typing import NDArray


def tightness(J: np.ndarray, J_start: np.ndarray) -> float:
    """Tightness of balance: the mean coupling over that of the start, whole matrices, diagonals included."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a single unit has no coupling
        return float(J.mean() / J_start.mean())


def require_clustering():
    """Raise ValueError without the extra that brings scikit-learn."""
    if importlib.util.find_spec("sklearn") is None:
        raise ValueError("clusters of neurons need the extra [runs]: pip install 'flossing[runs]'")


def find_clusters(J: np.ndarray, count: int) -> np.ndarray:
    """The cluster of each neuron (N,), 0 to `count` - 1 in order of appearance: k-means on the columns of J.

    Fixed random state, the best of ten starts; fewer clusters than wanted if there are fewer different columns. Raises
    ValueError for more clusters than neurons.
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

    Pairs i = j count as within, with their coupling of zero: so does the released code.
    """
    same = clusters[:, None] == clusters[None, :]
    return float(J[same].mean()), float(J[~same].mean()) if not same.all() else float("nan")


def eigenvalues(J: np.ndarray, x: np.ndarray) -> NDArray[np.complex128]:
    """Of J diag(phi'(x)), phi the rectifier, at each of several states x (..., N); complex, by their real parts."""
    values = np.linalg.eigvals(np.asarray(J, np.float64) * (x > 0)[..., None, :]).astype(np.complex128)
    return np.take_along_axis(values, np.argsort(values.real, axis=-1), axis=-1)


def outliers(values: NDArray[np.complex128], count: int) -> np.ndarray:
    """The real parts of the `count` leftmost of the eigenvalues (M, N) at M states, for each from the left: (M, count).

    A mean over states is a mean by rank: where outliers change places, it is further left for the first, and further
    right for the last, than the mean of any one of them. The mean of all is not biased.
    """
    return values.real[:, :count]


def weight_correlations(ws: np.ndarray, wr: np.ndarray) -> np.ndarray:
    """Pearson correlation, over neurons, of each readout's weights (O, N) with each input's (N, S): (O, S)."""
    readouts, inputs = wr - wr.mean(axis=1, keepdims=True), ws - ws.mean(axis=0)
    with np.errstate(invalid="ignore"):  # equal weights have no correlation
        return readouts @ inputs / np.outer(np.linalg.norm(readouts, axis=1), np.linalg.norm(inputs, axis=0))
