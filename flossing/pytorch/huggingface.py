"""A callback for the `Trainer` of Hugging Face; needs `transformers` and `accelerate`.

from flossing.pytorch.huggingface import FlosserCallback

trainer = Trainer(model, arguments, train_dataset=dataset, callbacks=[FlosserCallback(k=32, window=60)])
"""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from flossing.pytorch._flosser import Flosser

FILE = "flossing.pt"
"""The file in each checkpoint that holds the state of the flosser."""


class FlosserCallback(TrainerCallback):
    """Floss while a `Trainer` trains: one `step` of a [`Flosser`][flossing.pytorch.Flosser] after each training step.

    The arguments are those of `Flosser` after the model. Its scalars are in `trainer.state.log_history`, and in the
    logs of callbacks after this one. Its state is in each checkpoint, and resumed training continues bit for bit.
    If you resume from a checkpoint outside `output_dir`, pass it as `resume_from`, too: a callback is not told of it.
    Raises, when training starts, as `Flosser` does, and if the checkpoint has no flossing state or is of another step.
    """

    def __init__(self, *, resume_from: str | Path | None = None, **options: Any):
        self.flosser: Flosser | None = None
        self._options, self._resume_from = options, resume_from

    def on_train_begin(self, args: Any, state: Any, control: Any, **found: Any):
        """Find the recurrent module; restore its state if training is resumed."""
        if self.flosser is not None:
            self.flosser.close()
        if self._options.get("term") is not None and args.fp16 and not args.max_grad_norm:
            raise ValueError(
                f"max_grad_norm must be above 0 with fp16 and a flossing term, got max_grad_norm={args.max_grad_norm}: "
                "without clipping, gradients are still scaled when the term is added"
            )
        self.flosser = Flosser(found["model"], **self._options)
        if not state.global_step:
            return
        given = args.resume_from_checkpoint if self._resume_from is None else self._resume_from
        folder = Path(given) if isinstance(given, (str, Path)) else _checkpoint(args, state)
        legal = f"resume_from must name the checkpoint to resume from, with {FILE}"
        if not (folder / FILE).exists():
            raise ValueError(f"{legal}, got {folder}")
        self.flosser.load_state_dict(torch.load(folder / FILE, weights_only=True))
        if self.flosser.steps != state.global_step:
            raise ValueError(f"{legal}, got {folder} of step {self.flosser.steps}, not {state.global_step}")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **found: Any):
        """Add the gradient of the flossing term, if it is due; after gradients are clipped."""
        assert self.flosser is not None
        self.flosser.add_term()

    def on_step_end(self, args: Any, state: Any, control: Any, **found: Any):
        """Floss, if it is due."""
        assert self.flosser is not None
        self.flosser.step()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **found: Any):
        """Add the scalars."""
        if self.flosser is None:  # an evaluation before any training
            return
        for place in (logs, state.log_history[-1] if state.log_history else None):
            if place is not None:
                place.update(self.flosser.scalars())

    def on_save(self, args: Any, state: Any, control: Any, **found: Any):
        """Add the state to the checkpoint."""
        assert self.flosser is not None
        if state.is_world_process_zero:  # the process that flosses
            torch.save(self.flosser.state_dict(), _checkpoint(args, state) / FILE)


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
