"""Train an LSTM on the temporal XOR: the calculation behind the supplement on gated networks."""

import jax
import numpy as np
import optax

from flossing import losses, schedules, tasks
from flossing._training.epoch import Flossing
from flossing._training.train import clip_by_array_norm, init_training, measure_exponents, train
from flossing.cells import LSTM, Network
from flossing_lab.reference.task import FlossingInputs
from flossing_lab.runs.trials import Batch, Loss


def train_lstm(
    seed: int,
    d: int,
    flossed: bool,
    units: int,
    k: int,
    steps: int,
    epochs: int,
    batch: int,
    learning_rate: float,
    clip: float,
    amplitude: float,
    forget_bias: float,
    before: int,
    dtype: str,
) -> dict[str, np.ndarray]:
    """Train one LSTM on `y_t = s_{t-d/2} xor s_{t-d}`, with sequences of `steps` bits scaled by `amplitude`.

    If `flossed`, `before` flossing epochs of the first `k` exponents, over the whole sequence, precede training. A seed
    gives the same network and batches in both cases. Returns `accuracy` and `loss` (epochs,) on fresh batches before
    each update, and `exponents` (3, k) over one sequence: at the start, before training and after training.
    """
    with jax.enable_x64(dtype == "float64"):
        task = tasks.TemporalXOR(steps=steps, delay=d // 2, amplitude=amplitude)
        cell_key, readout_key, data_key, basis_key = jax.random.split(jax.random.key(seed), 4)
        network = Network(LSTM(units, key=cell_key, forget_bias=forget_bias), key=readout_key)
        flossing = Flossing(
            network,
            FlossingInputs(steps, 1, amplitude),
            state=network.zeros(),
            key=basis_key,
            k=k,
            # An LSTM's exponents lie close together, so a QR decomposition every few steps is accurate enough.
            interval=5,
            loss=losses.exponents,
            optimiser=optax.adam(1e-3),
            clip=None,
        )
        optimiser = _optimiser(learning_rate, clip)
        state = init_training(network, optimiser, flossing)
        start = flossed_start = _exponents(flossing, network)
        metrics: dict[str, list[np.ndarray]] = {"accuracy": [], "loss": []}
        for progress in train(
            state,
            loss=Loss(task),
            batch=Batch(task, batch),
            optimiser=optimiser,
            key=data_key,
            epochs=epochs,
            flossing=flossing if flossed else None,
            schedule=schedules.preflossing(before) if flossed else None,
        ):
            state = progress.state
            if progress.kind == "training":
                for name, values in metrics.items():
                    values.append(progress.metrics[name])
            elif state.epoch == 0 and state.pending == 0:
                flossed_start = _exponents(flossing, state.model)
        exponents = np.stack([start, flossed_start, _exponents(flossing, state.model)])
        return {name: np.concatenate(values) for name, values in metrics.items()} | {"exponents": exponents}


def _optimiser(learning_rate: float, clip: float) -> optax.GradientTransformation:
    # One optimiser for the whole run: compiled loops are looked up by its identity.
    return optax.chain(clip_by_array_norm(clip), optax.adam(learning_rate))


def _exponents(flossing: Flossing, network: Network) -> np.ndarray:
    return np.asarray(measure_exponents(flossing, network, jax.random.key(0)))
