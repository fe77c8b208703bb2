"""The initial networks of all contenders: NumPy arrays, drawn as in the reference experiment."""

import numpy as np

Numbers = dict[str, np.ndarray]

FLOSSED = ("J", "ws", "b")
"""The arrays that flossing trains."""


def flossing_start(units: int, k: int, seed: int = 1, dtype: str = "float32") -> Numbers:
    """J (N, N), ws (N, 1), b (N,), the initial state h (N,) and an orthonormal basis (N, k)."""
    rng = np.random.default_rng(seed)
    numbers = _network(rng, units)
    h = np.tanh(_relaxed(numbers, rng.normal(size=(1, units)))[0])
    basis = np.linalg.qr(rng.normal(size=(units, k)))[0]
    return _as(dtype, {name: numbers[name] for name in FLOSSED} | {"h": h, "basis": basis})


def training_start(units: int, batch: int, seed: int = 1, dtype: str = "float32") -> Numbers:
    """J, ws, b as above, the readout wr (1, N), offset (1,), and the initial states x0 (B, N)."""
    rng = np.random.default_rng(seed)
    numbers = _network(rng, units)
    readout = {"wr": rng.normal(size=(1, units)), "offset": np.full(1, 0.001)}
    return _as(dtype, numbers | readout | {"x0": _relaxed(numbers, rng.normal(size=(batch, units)))})


def xor_batch(batch: int, steps: int, delay: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Temporal XOR: inputs (B, T, 1), targets (B, T), mask (T,) of the scored steps."""
    bits = np.random.default_rng(seed).integers(0, 2, size=(batch, steps + 2 * delay)).astype(float)
    targets = (bits[:, delay : delay + steps] + bits[:, :steps]) % 2
    return bits[:, 2 * delay :, None], targets, np.arange(1, steps + 1) >= 2 * delay


def _network(rng: np.random.Generator, units: int) -> Numbers:
    return {
        "J": rng.normal(size=(units, units)) / np.sqrt(units),
        "ws": rng.normal(size=(units, 1)),
        "b": 0.1 * rng.random(units),
    }


def _relaxed(numbers: Numbers, x: np.ndarray, steps: int = 100) -> np.ndarray:
    for _ in range(steps):
        x = np.tanh(x) @ numbers["J"].T + numbers["b"]
    return x


def _as(dtype: str, numbers: Numbers) -> Numbers:
    return {name: np.asarray(array, dtype) for name, array in numbers.items()}
