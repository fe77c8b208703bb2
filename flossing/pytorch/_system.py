"""What is measured: a step or a recurrent module, from a state, along inputs; read, checked, and ready to run."""

import importlib.util
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from flossing.pytorch._modules import Recurrent, advance, read_module
from flossing.pytorch._state import Coordinates, check_tensors, describe, sequence_length
from flossing.pytorch._torch_engine import Flow, Step, tangent_flow

Engine: TypeAlias = Literal["auto", "jax", "torch"]


@dataclass(frozen=True)
class StepSystem:
    """Any step along one sequence of `length` steps; `size` real coordinates of the dtype and device of `like`."""

    step: Step
    state: Any
    inputs: Any
    length: int
    size: int
    like: Tensor

    def start(self, window: int) -> "StepSystem":
        """The same over its first `window` steps."""
        inputs = None if self.inputs is None else pytree.tree_map(lambda s: s[:window], self.inputs)
        return replace(self, inputs=inputs, length=window)

    def flow(self, basis: Float[Tensor, "N k"], *, transient: int, interval: int) -> Flow:
        """Run it."""
        where = {"length": self.length, "transient": transient, "interval": interval}
        return tangent_flow(self.step, self.state, self.inputs, basis, **where)


@dataclass(frozen=True)
class ModuleSystem:
    """A recurrent module along `inputs` (T, S), or (B, T, S) from states with a leading axis B."""

    recurrent: Recurrent
    state: Any
    inputs: Float[Tensor, "... T S"]
    compiled: bool
    """Whether the JAX engine runs it."""

    @property
    def batched(self) -> bool:
        """Whether there are many sequences."""
        return self.inputs.ndim == 3

    @property
    def length(self) -> int:
        """T."""
        return self.inputs.shape[-2]

    @property
    def size(self) -> int:
        """N, the real coordinates of the state of one sequence."""
        return sum(leaf.numel() for leaf in pytree.tree_leaves(self.recurrent.zeros()))

    @property
    def like(self) -> Tensor:
        """A tensor of the state's dtype, on its device."""
        return self.recurrent.like

    def start(self, window: int) -> "ModuleSystem":
        """The same over its first `window` steps."""
        return replace(self, inputs=self.inputs[..., :window, :])

    def flow(self, basis: Float[Tensor, "N k"], *, transient: int, interval: int) -> Flow:
        """Run it; the state is that of the module in its own layout."""
        run = self._compiled_flow if self.compiled else self._torch_flow
        flow = run(basis, transient=transient, interval=interval)
        return flow._replace(state=pytree.tree_map(lambda h: h.movedim(0, -2), flow.state)) if self.batched else flow

    def _compiled_flow(self, basis: Tensor, *, transient: int, interval: int) -> Flow:
        from flossing.pytorch import _jax_engine as _jax  # JAX is imported here, when it is first needed

        return _jax.flow(self.recurrent, self.state, self.inputs, basis, transient=transient, interval=interval)

    def _torch_flow(self, basis: Tensor, *, transient: int, interval: int) -> Flow:
        weight, _, bias, _ = self.recurrent.layers[0]
        drive = nn.functional.linear(self.inputs, weight, bias)
        step = partial(advance, torch, self.recurrent.kind, self.recurrent.layers)
        where = {"length": self.length, "transient": transient, "interval": interval}
        if not self.batched:
            return tangent_flow(step, self.state, drive, basis, **where)
        states = [pytree.tree_map(lambda h, b=b: h[b], self.state) for b in range(len(drive))]
        flows = [tangent_flow(step, *sequence, basis, **where) for sequence in zip(states, drive, strict=True)]
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *flows)


System: TypeAlias = StepSystem | ModuleSystem


def read_system(module_or_step: Any, state: Any, inputs: Any, *, steps: int | None, engine: str) -> System:
    """The system that these arguments of `lyapunov_spectrum` describe; raises ValueError where they do not fit."""
    if engine not in ("auto", "jax", "torch"):
        raise ValueError(f"engine must be 'auto', 'jax' or 'torch', got engine={engine!r}")
    recurrent = read_module(module_or_step)
    if recurrent is not None:
        return _read_recurrent(module_or_step, recurrent, state, inputs, steps, engine)
    name = getattr(module_or_step, "__name__", type(module_or_step).__name__)
    if not callable(module_or_step):
        raise ValueError(f"module_or_step must be a recurrent module or a function step(state, input), got {name}")
    if state is None:
        raise ValueError(f"state must be given for all but the recurrent modules of torch.nn, got None for {name}")
    if engine == "jax":
        raise ValueError(f"engine must be 'auto' or 'torch' for a step written in torch, got 'jax' for {name}")
    return _read_step(module_or_step, state, inputs, steps)


def _read_step(step: Any, state: Any, inputs: Any, steps: int | None) -> StepSystem:
    check_tensors("state", state)
    if inputs is not None:
        check_tensors("inputs", inputs)
    length = sequence_length(inputs, steps)
    coordinates = Coordinates(state)
    coordinates.check_step(step, state, pytree.tree_map(lambda s: s[0], inputs) if inputs is not None else None)
    return StepSystem(step, state, inputs, length, coordinates.size, coordinates.split(state)[0])


def _read_recurrent(
    module: Any, recurrent: Recurrent, state: Any, inputs: Any, steps: int | None, engine: str
) -> ModuleSystem:
    like, channels, axis = recurrent.like, recurrent.channels, recurrent.batch_axis
    if like.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"module must have weights of float32 or float64, got {like.dtype}")
    if not isinstance(inputs, Tensor) or inputs.ndim not in (2, 3) or inputs.shape[-1] != channels or 0 in inputs.shape:
        legal = f"(T, {channels}) or {'(T, B, ' if axis else '(B, T, '}{channels})"
        raise ValueError(f"inputs must be a tensor of shape {legal} for this module, got {describe(inputs)}")
    if (inputs.dtype, inputs.device) != (like.dtype, like.device):
        legal = f"{like.dtype} on {like.device} as the weights of the module"
        raise ValueError(f"inputs must be {legal}, got {inputs.dtype} on {inputs.device}")
    check_tensors("inputs", inputs)
    zeros = recurrent.zeros(*((inputs.shape[axis],) if inputs.ndim == 3 else ()))
    state = zeros if state is None else state
    if describe(state) != describe(zeros):
        raise ValueError(f"state must be like {describe(zeros)} for this module and inputs, got {describe(state)}")
    check_tensors("state", state)

    if module._forward_hooks or module._forward_pre_hooks:  # they expect a call; some of them make the weights
        module(inputs if recurrent.kind.stacked else inputs[0], state)
        recurrent = read_module(module) or recurrent
    if inputs.ndim == 3:
        inputs = inputs.movedim(axis, 0)
        state = pytree.tree_map(lambda h: h.movedim(-2, 0), state)
    sequence_length(inputs.movedim(-2, 0), steps)
    return ModuleSystem(recurrent, state, inputs, _is_compiled(engine, like.device.type))


def _is_compiled(engine: str, device: str) -> bool:
    if engine == "jax" and device != "cpu":
        raise ValueError(f"engine must be 'auto' or 'torch' for a module on {device}, got engine='jax'")
    return engine == "jax" or (engine == "auto" and device == "cpu" and importlib.util.find_spec("jax") is not None)
