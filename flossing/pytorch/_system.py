"""The system to measure: a recurrent module or a step, with its state and inputs, checked and ready to run."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from flossing._argument_order import FUNCTION_ORDER, MODULE_ORDER, argument_names, contradicts, order_hint
from flossing.pytorch._arguments import Coordinates, check_tensors, describe, sequence_length
from flossing.pytorch._modules import Recurrent, advance, read_module
from flossing.pytorch._torch_engine import Flow, Step, tangent_flow

Engine: TypeAlias = Literal["auto", "jax", "torch"]


@dataclass(frozen=True)
class StepSystem:
    """Any step, along one sequence or along each of `batch` sequences.

    Its state has `size` real coordinates, of the dtype and on the device of `like`.

    With a batch, `inputs` have a leading batch axis, and so have the leaves of `state` if `has_states`.
    """

    step: Step
    state: Any
    inputs: Any
    length: int
    size: int
    like: Tensor
    batch: int | None = None
    has_states: bool = False
    subspace: Float[Tensor, "N m"] | None = None

    def start(self, window: int) -> "StepSystem":
        """The same over its first `window` steps."""
        if self.inputs is None:
            return replace(self, length=window)
        cut = slice(window) if self.batch is None else (slice(None), slice(window))
        return replace(self, inputs=pytree.tree_map(lambda s: s[cut], self.inputs), length=window)

    def flow(self, basis: Float[Tensor, "... N k"], *, transient: int, interval: int) -> Flow:
        """Run the tangent flow."""
        options = {"length": self.length, "transient": transient, "interval": interval, "subspace": self.subspace}
        if self.batch is None:
            return tangent_flow(self.step, self.state, self.inputs, basis, **options)
        flows = []
        for index in range(self.batch):
            one = self.sequence(index)
            flows.append(
                tangent_flow(one.step, one.state, one.inputs, basis if basis.ndim == 2 else basis[index], **options)
            )
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *flows)

    def input_at(self, t: int) -> Any:
        """The input of step `t` of a single sequence."""
        return pytree.tree_map(lambda s: s[t], self.inputs) if self.inputs is not None else None

    def inputs_between(self, start: int, stop: int) -> Any:
        """The inputs of the steps `start` to `stop - 1` of a single sequence."""
        return pytree.tree_map(lambda s: s[start:stop], self.inputs) if self.inputs is not None else None

    def sequence(self, index: int) -> "StepSystem":
        """The system along one sequence of the batch."""
        state = pytree.tree_map(lambda x: x[index], self.state) if self.has_states else self.state
        inputs = pytree.tree_map(lambda x: x[index], self.inputs)
        return replace(self, state=state, inputs=inputs, batch=None, has_states=False)


@dataclass(frozen=True)
class ModuleSystem:
    """A recurrent module along `inputs` (T, S), or (B, T, S) from states with a leading axis B."""

    recurrent: Recurrent
    state: Any
    inputs: Float[Tensor, "... T S"]
    compiled: bool
    """Whether the JAX engine runs it."""
    subspace: Float[Tensor, "N m"] | None = None

    @property
    def batch(self) -> int | None:
        """The number of sequences, None for a single one without a batch axis."""
        return self.inputs.shape[0] if self.inputs.ndim == 3 else None

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

    def flow(self, basis: Float[Tensor, "... N k"], *, transient: int, interval: int) -> Flow:
        """Run the tangent flow; the state has the module's own layout."""
        run = self._compiled_flow if self.is_compiled(basis) else self._torch_flow
        flow = run(basis, transient=transient, interval=interval)
        if self.batch is None:
            return flow
        return flow._replace(state=pytree.tree_map(lambda h: h.movedim(0, -2), flow.state))

    def is_compiled(self, basis: Float[Tensor, "... N k"]) -> bool:
        """Whether the JAX engine serves this basis."""
        return self.compiled and basis.ndim == 2 and self.subspace is None

    def _compiled_flow(self, basis: Tensor, *, transient: int, interval: int) -> Flow:
        from flossing.pytorch import _jax_engine  # JAX is imported here, when it is first needed

        return _jax_engine.flow(self.recurrent, self.state, self.inputs, basis, transient=transient, interval=interval)

    def _torch_flow(self, basis: Tensor, *, transient: int, interval: int) -> Flow:
        return self.as_step().flow(basis, transient=transient, interval=interval)

    def as_step(self) -> StepSystem:
        """The same system, with the module as a step."""
        weight, _, bias, _ = self.recurrent.layers[0]
        drive = nn.functional.linear(self.inputs, weight, bias)
        step = partial(advance, torch, self.recurrent.kind, self.recurrent.layers)
        of = {"length": self.length, "size": self.size, "like": self.like, "batch": self.batch, "has_states": True}
        return StepSystem(step, self.state, drive, **of, subspace=self.subspace)


System: TypeAlias = StepSystem | ModuleSystem


def read_system(
    model: Any,
    inputs: Any,
    *,
    state: Any = None,
    step: Any = None,
    steps: int | None = None,
    steps_name: str = "steps",
    batched: bool | None = None,
    engine: str = "auto",
) -> System:
    """The system that these arguments of `lyapunov_spectrum` describe; raises ValueError where they do not fit."""
    if engine not in ("auto", "jax", "torch"):
        raise ValueError(f"engine must be 'auto', 'jax' or 'torch', got engine={engine!r}")
    if batched not in (None, True, False):
        raise ValueError(f"batched must be True, False or None, got batched={batched!r}")
    recurrent = None if step is not None else read_module(model)
    if recurrent is not None:
        system = _read_recurrent(model, recurrent, state, inputs, engine)
        if batched is not None and batched != (system.batch is not None):
            raise ValueError(f"batched must be left out for this module, whose inputs imply it, got batched={batched}")
        return system.start(sequence_length(system.inputs.movedim(-2, 0), steps, steps_name))
    name = getattr(model, "__name__", type(model).__name__)
    if state is None:
        raise ValueError(f"state must be given for all but the recurrent modules of torch.nn, got None for {name}")
    if engine == "jax":
        raise ValueError(f"engine must be 'auto' or 'torch' for a step written in torch, got 'jax' for {name}")
    return _read_step(model, step, state, inputs, steps, steps_name, bool(batched))


def _explicit(model: Any, step: Any) -> Callable[[Any, Any], Any]:
    """The step `step(state, input)` of a model: a function is a step, a module is called like a torch cell."""
    if step is not None:
        if not callable(step):
            raise ValueError(f"step must be a function step(model, state, input) -> state, got step={step!r}")
        return lambda state, input: step(model, state, input)
    if not callable(model):
        raise ValueError(
            f"model must be a recurrent module, a cell(input, state) or a function step(state, input), got {model!r}"
        )
    return (lambda state, input: model(input, state)) if isinstance(model, nn.Module) else model


def _read_step(
    model: Any, step: Any, state: Any, inputs: Any, steps: int | None, steps_name: str, batched: bool
) -> StepSystem:
    check_tensors("state", state)
    if inputs is not None:
        check_tensors("inputs", inputs)
    call = _explicit(model, step)
    if not batched:
        length = sequence_length(inputs, steps, steps_name)
        coordinates = _check_step(model, step, call, state, _first(inputs))
        system = StepSystem(call, state, inputs, length, coordinates.size, coordinates.split(state)[0])
        return system.start(length)

    leaves, states = pytree.tree_leaves(inputs) if inputs is not None else [], pytree.tree_leaves(state)
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in leaves or states}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        raise ValueError(f"inputs must have one leading batch axis, one entry per sequence, got {describe(inputs)}")
    (size,) = sizes
    first = pytree.tree_map(lambda s: s[0], inputs) if inputs is not None else None
    length = sequence_length(first, steps, steps_name)
    has_states = all(leaf.ndim and leaf.shape[0] == size for leaf in states)
    one = pytree.tree_map(lambda x: x[0], state) if has_states else state
    try:
        coordinates = _check_step(model, step, call, one, _first(first))
    except ValueError:
        if not has_states or inputs is None:
            raise
        has_states, one = False, state
        coordinates = _check_step(model, step, call, one, _first(first))
    like = coordinates.split(one)[0]
    return StepSystem(call, state, inputs, length, coordinates.size, like, size, has_states).start(length)


def _first(inputs: Any) -> Any:
    return pytree.tree_map(lambda s: s[0], inputs) if inputs is not None else None


def _check_step(model: Any, step: Any, call: Step, state: Any, input: Any) -> Coordinates:
    """The coordinates of the state; ValueError unless the step maps it to a state of the same form, or if the order of
    arguments is ambiguous."""
    coordinates = Coordinates(state)
    if step is not None:
        coordinates.check_step(call, state, input)
        return coordinates

    def other(state: Any, input: Any) -> Any:
        return model(state, input) if isinstance(model, nn.Module) else model(input, state)

    def fits_otherwise() -> bool:
        try:
            coordinates.check_step(other, state, input)
        except Exception:  # any exception means that this is not the order of arguments
            return False
        return True

    names, order = (
        argument_names(_signature_of(model)),
        MODULE_ORDER if isinstance(model, nn.Module) else FUNCTION_ORDER,
    )
    if contradicts(names, order) and fits_otherwise():
        raise ValueError(
            f"model must be called in one order, got one that can be read in two: {order_hint(names, order)}"
        )
    try:
        coordinates.check_step(call, state, input)
    except ValueError as error:
        if not fits_otherwise():
            raise
        raise ValueError(f"{error}; {order_hint(names, order)}") from error.__cause__
    return coordinates


def _signature_of(model: Any) -> Any:
    return model.forward if isinstance(model, nn.Module) else model


def _read_recurrent(module: Any, recurrent: Recurrent, state: Any, inputs: Any, engine: str) -> ModuleSystem:
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

    if module._forward_hooks or module._forward_pre_hooks:  # they expect a call; some compute the weights
        module(inputs if recurrent.kind.stacked else inputs[0], state)
        recurrent = read_module(module) or recurrent
    if inputs.ndim == 3:
        inputs = inputs.movedim(axis, 0)
        state = pytree.tree_map(lambda h: h.movedim(-2, 0), state)
    return ModuleSystem(recurrent, state, inputs, _is_compiled(engine, like.device.type))


def _is_compiled(engine: str, device: str) -> bool:
    if engine == "jax" and device != "cpu":
        raise ValueError(f"engine must be 'auto' or 'torch' for a module on {device}, got engine='jax'")
    return engine == "jax" or (engine == "auto" and device == "cpu" and importlib.util.find_spec("jax") is not None)
