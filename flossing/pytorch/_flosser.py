"""Flossing inside a training loop of your own: hooks record what a step was given, and a rule decides when to floss."""

import copy
import functools
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flossing._arguments import CLIP, LEARNING_RATE, check_loss, check_settings
from flossing._messages import lost_reach_message, warn
from flossing._schedule import Schedule, as_schedule, checked
from flossing._term import FlossingTerm, check_term
from flossing.pytorch._distributed import averaged, from_first, is_first, send
from flossing.pytorch._draw import Draw
from flossing.pytorch._epoch import select_parameters
from flossing.pytorch._floss import FlossingState, floss
from flossing.pytorch._modules import find_recurrent, unwrapped
from flossing.pytorch._reach import cell_reach, layer_reach
from flossing.pytorch._recorder import CellRecorder, LayerRecorder, Record
from flossing.pytorch._surroundings import evaluating, in_own_surroundings
from flossing.pytorch._system import Engine
from flossing.pytorch._term import Gradients, value_and_gradients, with_gradients
from flossing.pytorch.losses import Loss
from flossing.schedules import by_reach

_NOTHING = {
    "flossing/reach": math.nan,
    "flossing/exponent_1": math.nan,
    "flossing/exponent_k": math.nan,
    "flossing/loss": math.nan,
    "flossing/epochs": 0,
    "flossing/seconds": 0.0,
}
"""The scalars before the first measurement."""

FORMAT = 1
"""The format of `state_dict`."""

PATIENCE = 20
"""The number of batches in a row that may be too short for the window."""


class Flosser:
    """Floss the recurrent module of a model in your own training loop, whenever gradients no longer reach back.

        flosser = flt.Flosser(model, k=32, window=60)
        for x, y in loader:
            optimiser.zero_grad(); criterion(model(x), y).backward(); optimiser.step()
            flosser.step()

    Hooks record what the recurrent module is given in a training step, after embeddings and packing, and the gradient
    that comes back. The first `step` flosses for `preflossing` epochs. Then after every `every` steps it measures how
    much of the gradient reaches back over the window,

        reach = |dL/dh_0| / |dL/dtheta|,        L the losses of the second half of the window,

    where the window is the last `window` steps of each sequence up to its last loss, h_0 the state at its start, and
    theta are the parameters. If that is at most `threshold`, it flosses for `epochs` epochs. Measuring costs one more
    forward and backward pass of the recurrent module. For a cell, whose steps you call yourself, L is a random linear
    function of the states. In our trials the reach is below 1e-5 in networks that cannot learn, and above 5e-3 in those
    that do (tanh networks, GRUs and LSTMs of 64 units; recall over 25 steps, XOR of lags 20 and 40).

    **Arguments:**

    - `model`: the module that you train, or its recurrent module. `torch.compile`d and wrapped modules are fine.
    - `recurrent`: the module to floss, itself or its name in the model, such as "encoder.rnn". By default the only
      `nn.RNN`, `nn.GRU`, `nn.LSTM` or cell of these in the model. Any other module is called as a cell,
      `cell(input, state) -> state`, with leading batch axes.
    - `k`, `window`, `transient`, `interval`, `tolerance`, `target`, `loss`, `clip`, `project`, `engine`: as for
      [`floss`][flossing.pytorch.floss]. `window` is required; the longest lag of the task times two is a
      good value, if sequences are that long. Shorter sequences of a batch are left out.
    - `parameters`, `optimiser`: as for `floss`; by default the parameters of the recurrent module that require a
      gradient, and an Adam of their own with a learning rate of 3e-3.
    - `preflossing`, `epochs`, `every`, `threshold`: see above. `preflossing=0` for none.
    - `schedule`: a schedule of `flossing.schedules`, which replaces these four; or a function `(step, measures) ->
      flossing epochs`, called after every `every` steps, without flossing before training. `measures` holds `reach`.
    - `term`: a [`FlossingTerm`][flossing.FlossingTerm], the settings of the term that `term()` returns and you add to
      your loss; none by default.
    - `sequences`: how many sequences of the recorded batch each flossing epoch takes, and each step with a term; they
      are drawn anew.
    - `seed`: draws these sequences, and the initial basis.
    - `report`: print once what is flossed.

    Flossing computes in evaluation mode, and leaves gradients, optimisers, schedulers and random states of torch as
    they are. With `torch.distributed`, the first process flosses and sends its parameters to the others.

    **Raises:** `ValueError` for a model without a recurrent module, with several and no choice, or with a frozen one,
    and for arguments that `floss` refuses.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        window: int,
        recurrent: nn.Module | str | None = None,
        k: int | None = None,
        transient: int | None = None,
        interval: int | Literal["auto"] = "auto",
        tolerance: float | None = None,
        target: Any = 0.0,
        loss: Loss | None = None,
        parameters: Iterable[Tensor] | None = None,
        optimiser: torch.optim.Optimizer | Callable[[list], torch.optim.Optimizer] | None = None,
        clip: float | None = CLIP,
        project: Callable[[Any], Any] | None = None,
        preflossing: int = 500,
        epochs: int = 50,
        every: int = 100,
        threshold: float = 1e-3,
        schedule: Schedule | Callable[[int, Any], int] | None = None,
        term: FlossingTerm | None = None,
        sequences: int = 1,
        seed: int = 0,
        report: bool = True,
        engine: Engine = "auto",
    ):
        options = {"k": k, "transient": transient, "interval": interval, "tolerance": tolerance, "target": target}
        options["clip"] = clip
        check_settings(window=window, sequences=sequences, seed=seed, **options)
        if loss is not None:
            check_loss(loss, "flossing.pytorch.losses", "flossing.losses")
        check_term(term, "flossing.pytorch.losses", "flossing.losses")
        root = unwrapped(model)
        self.module = find_recurrent(root, recurrent)
        if any(p.is_complex() for p in self.module.parameters()):
            raise ValueError("recurrent must have real parameters, got complex ones: call floss in your own loop")
        self.window, self.sequences, self.seed, self.report = window, sequences, seed, report
        adam = functools.partial(torch.optim.Adam, lr=LEARNING_RATE)
        chosen = select_parameters(self.module, parameters, adam if optimiser is None else optimiser)
        self.parameters, self.optimiser = chosen
        self._options = {**options, "loss": loss, "project": project, "engine": engine}
        # Made beside a schedule, too, for its errors.
        usual = by_reach(threshold=threshold, preflossing=preflossing, epochs=epochs, every=every)
        schedule = usual if schedule is None else schedule
        self.schedule = as_schedule(schedule, every)
        self.steps, self._interval, self._scalars = 0, 1, dict(_NOTHING)
        self._scalars |= {} if term is None else {"flossing/term": math.nan}
        self._waiting = 0  # the step whose query waits for a batch with long sequences
        self.flossing_term, self._has_term = term, False  # whether this step has its term
        self._without_term = 0  # batches in a row that were too short for one
        self._hook(root)
        self._arm()

    def term(self) -> Tensor:
        """The flossing term of the loss: add it to your own, between the forward and the backward pass.

            (criterion(model(x), y) + flosser.term()).backward()

        In every `term.every`-th step it is the weighted loss along the first `window` steps of `sequences` sequences of
        what the recurrent module was just given: a scalar whose gradient reaches the flossed parameters. In all other
        steps it is zero and costs nothing. Value and gradient are computed in this call. If all sequences of the batch
        are shorter than the window, it warns and returns zero. If you accumulate gradients, scale it like your loss.
        It uses QR after every step unless `interval` is a number; `loss`, `clip` and `project` do not apply to it.

        Raises ValueError without a `term`, if called before the forward pass, and after 20 batches in a row that are
        too short; FloatingPointError if the term or its gradient is not finite.
        """
        if self.flossing_term is None:
            raise ValueError("term must be given to the Flosser, as term=FlossingTerm(), got term=None")
        value, gradients = self._term()
        return with_gradients(value, gradients, self.parameters)

    def add_term(self):
        """Add the gradient of the term to those of the parameters, after `backward`: where you cannot change the loss.

        The callbacks for trainers call this. With `torch.distributed` it is the mean over processes.
        """
        if self._is_term_due():
            for parameter, gradient in zip(self.parameters, averaged(self._term()[1], self.parameters), strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def step(self) -> int:
        """Call this after each training step -> the flossing epochs done, mostly 0.

        If all sequences of a batch are shorter than the window, it warns and waits for the next batch.

        Raises ValueError if no gradient has reached the recurrent module since the last call in which the schedule was
        due, after 20 batches in a row that are too short, or if `term` was due and not called; nothing is changed then.
        """
        if self._is_term_due() and not self._has_term:
            raise ValueError(
                "step must follow the backward pass of loss + flosser.term(), since this Flosser has a term, got no "
                f"call of term in training step {self.steps + 1}"
            )
        due = 0
        if self._is_due():
            record, query = self._recorded(), self._waiting or self.steps + 1
            if from_first(lambda: record.longest < self.window):
                self._wait(record.longest, query)
            else:
                due, self._waiting = self._query(record.of_at_least(self.window), query), 0
        self.steps, self._has_term = self.steps + 1, False
        self._arm()
        return due

    def scalars(self) -> dict[str, float]:
        """What was measured last, as plain numbers for a logger.

        - `flossing/reach`: how much of the gradient reached back at the last query, before any flossing that followed.
        - `flossing/exponent_1`, `flossing/exponent_k`: as measured last, at the end of a block of flossing or in a
          term; `flossing/loss`: at the end of the last block.
        - `flossing/epochs`, `flossing/seconds`: all flossing epochs so far, and their time, compilation included.
        - `flossing/term`: the last term of the loss, if there is any.

        NaN where nothing has been measured yet.
        """
        return dict(self._scalars)

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name.removeprefix('flossing/')}={value:.3g}" for name, value in self._scalars.items())
        return f"Flosser(window={self.window}, step {self.steps}: {numbers})"

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, for `torch.save`; resumed training continues bit for bit."""
        state = {"format": FORMAT, "steps": self.steps, "interval": self._interval, "scalars": self.scalars()}
        state |= {"waiting": self._waiting, "without_term": self._without_term}
        return state | {"optimiser": self.optimiser.state_dict(), "shapes": self._shapes()}

    def load_state_dict(self, state: dict[str, Any]):
        """Restore `state_dict()`; `k`, `window` and the other settings remain those of this `Flosser`.

        Raises ValueError for the state of another model; nothing is changed then.
        """
        if not isinstance(state, dict) or state.get("format") != FORMAT or "shapes" not in state:
            got = f"one with the keys {list(state)}" if isinstance(state, dict) else f"{state!r}"
            raise ValueError(f"state must be a state_dict() of a Flosser, got {got}")
        if state["shapes"] != self._shapes():
            raise ValueError(
                f"state must be that of the same module, with parameters {self._shapes()}, got {state['shapes']}"
            )
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps, self._interval = state["steps"], state["interval"]
        self._scalars |= {name: value for name, value in state["scalars"].items() if name in self._scalars}
        self._waiting, self._has_term = state.get("waiting", 0), False
        self._without_term = state.get("without_term", 0)
        self._arm()

    def close(self):
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def __deepcopy__(self, memo: Any) -> "Flosser":
        copied = memo[id(self)] = object.__new__(type(self))
        copied.__dict__ |= {name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()}
        copied._arm()
        return copied

    def _hook(self, root: nn.Module):
        self._recorder: Any = LayerRecorder() if isinstance(self.module, nn.RNNBase) else CellRecorder()
        self._handles = [self.module.register_forward_hook(self._recorder, with_kwargs=True)]
        if isinstance(self._recorder, CellRecorder) and root is not self.module:
            self._handles.append(root.register_forward_pre_hook(self._recorder.begin))

    def _is_due(self) -> bool:
        return self._waiting > 0 or self.schedule.next_query(self.steps) == self.steps + 1

    def _is_term_due(self) -> bool:
        return self.flossing_term is not None and (self.steps + 1) % self.flossing_term.every == 0

    def _arm(self):
        """Record the next training step if the schedule is due after it, or a term in it."""
        self._recorder.arm(self._is_due() or self._is_term_due())

    def _term(self) -> tuple[Tensor, Gradients]:
        """The term of this step and its gradients; zero where it is not due."""
        nothing: tuple[Tensor, Gradients] = self.parameters[0].new_zeros(()), [None] * len(self.parameters)
        if self.flossing_term is None or not self._is_term_due():
            return nothing
        record = self._recorder.latest()
        if record is None:
            raise ValueError(
                "term must follow a forward pass of the recurrent module, in training and outside no_grad, got none "
                f"since step {self.steps}"
            )
        self._has_term = True
        if record.longest < self.window:
            self._without_term += 1
            self._give_up_after(self._without_term, record.longest)
            warn(f"{self._too_short(record.longest)}: there is no flossing term in this step")
            return nothing
        self._without_term, draw = 0, self._draw(record.of_at_least(self.window))
        names = ("k", "transient", "interval", "tolerance", "target", "engine")
        options: dict[str, Any] = {name: self._options[name] for name in names}
        options |= {"window": self.window, "seeds": (self.seed, self.seed + self.steps)}
        value, gradients, found = value_and_gradients(self.module, draw, self.flossing_term, self.parameters, **options)
        self._scalars |= {"flossing/term": value.item(), **_ends(found)}
        return value, gradients

    def _draw(self, record: Record) -> Draw:
        """Sequences of a record, drawn for this step."""
        draws = torch.Generator().manual_seed(self.seed + self.steps)
        return Draw(self.module, record, self.window, min(self.sequences, record.batch), draws)

    def _too_short(self, longest: int) -> str:
        return f"no sequence of this batch has the {self.window} steps of the window, the longest has {longest}"

    def _wait(self, longest: int, query: int):
        """Put a query off to the next batch."""
        self._give_up_after(self.steps + 2 - query, longest)
        if not self._waiting:
            warn(f"{self._too_short(longest)}: flossing waits for a batch with one")
        self._waiting = query

    def _give_up_after(self, batches: int, longest: int):
        if batches > PATIENCE:
            raise ValueError(
                f"window must be at most the length of the longest sequence of a batch, {longest}, got "
                f"window={self.window}, and {PATIENCE} batches before had none of this length either"
            )

    def _query(self, record: Record, query: int) -> int:
        """Measure, and floss if the schedule asks for it -> the flossing epochs."""
        due = from_first(lambda: checked(self.schedule(query, self._measure(record))))
        if due and is_first():
            self._floss(record, due)
        if due:
            send(self.parameters)
        elif is_first() and not math.isfinite(reach := self._scalars["flossing/reach"]):
            warn(lost_reach_message(reach))
        return due

    def _shapes(self) -> list[tuple[int, ...]]:
        return [tuple(p.shape) for p in self.parameters]

    def _recorded(self) -> Record:
        record = self._recorder.take()
        if record is None:
            raise ValueError(
                "step must follow a backward pass through the recurrent module, in training and outside no_grad, got "
                f"none since step {self.steps}"
            )
        return record

    @in_own_surroundings
    def _measure(self, record: Record) -> dict[str, Any]:
        trained: list[Tensor] = [p for p in self.module.parameters() if p.requires_grad]
        arguments = self.module, record, self.window, trained
        with evaluating(self.module), torch.enable_grad():
            if record.gradients is not None:
                reach = layer_reach(*arguments)
            else:
                reach = cell_reach(*arguments, torch.Generator().manual_seed(self.seed + self.steps))
        self._scalars["flossing/reach"] = reach
        return {"reach": reach}

    def _floss(self, record: Record, epochs: int):
        draw, generator = self._draw(record), torch.Generator().manual_seed(self.seed + self.steps)
        held = [p for group in self.optimiser.param_groups for p in group["params"]]
        since, gradients = time.perf_counter(), [p.grad for p in held]
        try:
            with evaluating(self.module):
                history = floss(
                    self.module,
                    draw.inputs,
                    state=draw.state,
                    batched=draw.batched,
                    window=self.window,
                    parameters=self.parameters,
                    epochs=epochs,
                    generator=generator,
                    flossing_state=FlossingState(self.optimiser, self._interval),
                    report=self.report and not self._scalars["flossing/epochs"],
                    **self._options,
                )
        finally:
            for p, gradient in zip(held, gradients, strict=True):
                p.grad = gradient
        self._interval = history.state.interval
        self._scalars |= {
            **_ends(history.exponents[-1]),
            "flossing/loss": float(history.loss[-1]),
            "flossing/epochs": self._scalars["flossing/epochs"] + epochs,
            "flossing/seconds": self._scalars["flossing/seconds"] + time.perf_counter() - since,
        }


def _ends(exponents: Tensor) -> dict[str, float]:
    """The first and the last of the flossed exponents, a mean over sequences."""
    last = exponents.reshape(-1, exponents.shape[-1]).mean(0)
    return {"flossing/exponent_1": float(last[0]), "flossing/exponent_k": float(last[-1])}
