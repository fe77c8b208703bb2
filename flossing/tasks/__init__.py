"""Tasks that need a memory: a key in, one sequence with its targets out. Batches are the caller's `jax.vmap`.

What a task is, [`tasks.Task`][] in short:

- `task(key) -> Trial`: a sequence, drawn anew, `inputs` (T, S), `targets` (T,), `mask` (T,) of the scored steps;
- `task.channels`, `task.outputs`: S, and the number of outputs O that a network needs;
- `task.score(outputs, sequence) -> Score`: loss and accuracy of the outputs (T, O) of a network, means over the scored
  steps: cross-entropy for classes, binary cross-entropy for bits, the squared error for numbers;
- `task.baseline_loss`: the expected loss of the best that can be said without memory.

A loss for [`train`][], the same for all of them:

    def loss(network, batch):
        outputs = jax.vmap(network.outputs)(batch.inputs)
        score = jax.vmap(task.score)(outputs, batch)
        return score.loss.mean(), {"accuracy": score.accuracy.mean()}

[`tasks.OrnsteinUhlenbeck`][] is no such task: it draws a [`tasks.Trial`][], with a target for each signal, and has
no score and no trivial loss.

Nothing is downloaded.
"""

from flossing.tasks._binary import (
    DelayedCopy as DelayedCopy,
    SpatialXOR as SpatialXOR,
    TemporalParity as TemporalParity,
    TemporalXOR as TemporalXOR,
)
from flossing.tasks._digits import Digits as Digits
from flossing.tasks._memory import Adding as Adding, CopyMemory as CopyMemory
from flossing.tasks._ornstein_uhlenbeck import OrnsteinUhlenbeck as OrnsteinUhlenbeck
from flossing.tasks._trial import Score as Score, Task as Task, Trial as Trial
