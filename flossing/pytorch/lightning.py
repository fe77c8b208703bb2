"""A callback for Lightning's `Trainer`; needs `lightning` or `pytorch-lightning`.

from flossing.pytorch.lightning import FlosserCallback

trainer = Trainer(callbacks=[FlosserCallback(k=32, window=60)])
"""

from typing import Any

try:
    from lightning.pytorch import Callback  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError:
    from pytorch_lightning import Callback

from flossing.pytorch._flosser import Flosser


class FlosserCallback(Callback):  # pyright: ignore[reportGeneralTypeIssues] (one of the two)
    """Floss while Lightning trains: calls `step` of a [`Flosser`][flossing.pytorch.Flosser] after each optimiser step.

    The arguments are those of `Flosser` after the model. Its scalars are logged, its state is part of each checkpoint,
    and resumed training continues bit for bit. Raises, when training starts, as `Flosser` does.
    """

    def __init__(self, **options: Any):
        self.flosser: Flosser | None = None
        self._options, self._restored, self._module = options, None, None
        self._has_stepped = False

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint, one for each recurrent module."""
        return f"{type(self).__qualname__}{{recurrent={self._options.get('recurrent')}}}"

    def on_fit_start(self, trainer: Any, pl_module: Any):
        """Find the recurrent module."""
        if self.flosser is None or self._module is not pl_module:  # a second fit goes on
            if self.flosser is not None:
                self.flosser.close()
            self.flosser, self._module = Flosser(pl_module, **self._options), pl_module
        if self._restored:
            self.flosser.load_state_dict(self._restored)
            self._restored = None

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any):
        """Add the gradient of the flossing term, if there is one and it is due; before gradients are clipped."""
        assert self.flosser is not None
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(id(p) in held for p in self.flosser.parameters):
            self.flosser.add_term()
            self._has_stepped = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int):
        """Floss, if it is due; not after batches whose gradients are only accumulated."""
        assert self.flosser is not None
        if self._has_stepped:
            self._has_stepped = False
            self.flosser.step()
        pl_module.log_dict(self.flosser.scalars())

    def state_dict(self) -> dict[str, Any]:
        """The state of the flosser, for a checkpoint."""
        return self._restored or ({} if self.flosser is None else self.flosser.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]):
        """Restore it, now or when training starts."""
        self._restored = state_dict
