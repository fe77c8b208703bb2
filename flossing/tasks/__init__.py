"""Tasks that need memory. Each draws one sequence with its targets from a key; use `jax.vmap` for batches.

The protocol of a task, [`tasks.Task`][], in short:

- `task(key) -> Trial`: a new random sequence, `inputs` (T, S), `targets` (T,), `mask` (T,) of the scored steps;
- `task.channels`, `task.outputs`: S, and the number of outputs O that a network needs;
- `task.score(outputs, trial) -> Score`: loss and accuracy of the outputs (T, O) of a network, averaged over the scored
  steps: cross-entropy for classes, binary cross-entropy for bits, squared error for numbers;
- `task.baseline_loss`: the expected loss of the best prediction without memory.

The same loss for [`train`][] works for all of them:

    def loss(network, batch):
        outputs = jax.vmap(network.outputs)(batch.inputs)
        score = jax.vmap(task.score)(outputs, batch)
        return score.loss.mean(), {"accuracy": score.accuracy.mean()}

[`tasks.OrnsteinUhlenbeck`][] does not follow this protocol: it draws a [`tasks.Trial`][] with a target for each signal,
and has no score and no baseline loss.

Nothing is downloaded.
"""

from flossing.tasks._bits import (
    DelayedCopy as DelayedCopy,
    SpatialXOR as SpatialXOR,
    TemporalParity as TemporalParity,
    TemporalXOR as TemporalXOR,
)
from flossing.tasks._copy_and_adding import Adding as Adding, CopyMemory as CopyMemory
from flossing.tasks._digits import Digits as Digits
from flossing.tasks._mackey_glass import MackeyGlass as MackeyGlass, valid_time as valid_time
from flossing.tasks._match import MatchToSample as MatchToSample
from flossing.tasks._ornstein_uhlenbeck import OrnsteinUhlenbeck as OrnsteinUhlenbeck
from flossing.tasks._trial import Score as Score, Task as Task, Trial as Trial
