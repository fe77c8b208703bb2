"""Read the arguments of a measurement in torch: the system they describe, or an error in one line."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.utils import _pytree as pytree

from flossing._argument_order import FUNCTION_ORDER, MODULE_ORDER, argument_names, contradicts, order_hint
from flossing._messages import rows_message
from flossing.pytorch._arguments import Coordinates, check_tensors, describe, each_input, real_numbers, sequence_length
from flossing.pytorch._modules import Recurrent, read_module, recurrent_names, unwrapped
from flossing.pytorch._orbits import orbit
from flossing.pytorch._system import ModuleSystem, StepSystem, System
from flossing.pytorch._torch_engine import Step


def read_system(
    model: Any,
    inputs: Any,
    *,
    state: Any = None,
    step: Any = None,
    steps: int | None = None,
    steps_name: str = "steps",
    batched: bool | None = None,
    lengths: Any = None,
    engine: str = "auto",
    trial: bool = True,
) -> System:
    """The system that these arguments of `lyapunov_spectrum` describe; raises ValueError where they do not fit.

    Without `trial` a step is not called twice to see whether it is pure.
    """
    if engine not in ("auto", "jax", "torch"):
        raise ValueError(f"engine must be 'auto', 'jax' or 'torch', got engine={engine!r}")
    if batched not in (None, True, False):
        raise ValueError(f"batched must be True, False or None, got batched={batched!r}")
    model = unwrapped(model)
    recurrent = None if step is not None else read_module(model)
    if recurrent is not None:
        if isinstance(inputs, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths must be left out for a packed sequence, which has its own")
            inputs, lengths = pad_packed_sequence(inputs, batch_first=recurrent.batch_axis == 0)
        system = _read_recurrent(model, recurrent, state, inputs, engine)
        system = replace(system, lengths=_read_lengths(lengths, system, system.length))
        if batched is not None and batched != (system.batch is not None):
            raise ValueError(f"batched must be left out for this module, whose inputs imply it, got batched={batched}")
        return system.start(sequence_length(system.inputs.movedim(-2, 0), steps, steps_name))
    name = getattr(model, "__name__", type(model).__name__)
    inside = recurrent_names(model) if isinstance(model, nn.Module) and step is None else []
    first = inside[0] if inside else ""
    hint = f"model must be the recurrent layer alone, got {name}: pass model.{first}, with the inputs of that layer"
    if state is None and inside:
        raise ValueError(hint)
    if state is None:
        raise ValueError(f"state must be given for all but the recurrent modules of torch.nn, got None for {name}")
    if engine == "jax":
        raise ValueError(f"engine must be 'auto' or 'torch' for a step written in torch, got 'jax' for {name}")
    if isinstance(inputs, PackedSequence):
        raise ValueError(
            "inputs must be padded for a step of your own, got a PackedSequence: use pad_packed_sequence, "
            "batched=True and lengths="
        )
    try:
        system = _read_step(model, step, state, inputs, steps, steps_name, batched, trial)
    except ValueError as error:
        if not inside:
            raise
        raise ValueError(f"{error}; {hint}") from error
    padded = pytree.tree_leaves(inputs)[0].shape[1] if system.batch is not None and inputs is not None else 0
    return replace(system, lengths=_read_lengths(lengths, system, padded))


def _read_lengths(lengths: Any, system: System, steps: int) -> tuple[int, ...] | None:
    if lengths is None:
        return None
    if system.batch is None:
        raise ValueError("lengths must come with a batch of sequences, got a single one")
    values = torch.as_tensor(lengths)
    if values.shape != (system.batch,) or values.is_floating_point() or values.dtype == torch.bool:
        legal = f"one integer for each of {system.batch} sequences"
        raise ValueError(f"lengths must be {legal}, got {values.dtype} of shape {tuple(values.shape)}")
    found = tuple(values.tolist())
    for index, length in enumerate(found):
        if not 1 <= length <= steps:
            raise ValueError(f"lengths must be from 1 to {steps}, the padded length, got lengths[{index}]={length}")
    return found


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
    model: Any,
    step: Any,
    state: Any,
    inputs: Any,
    steps: int | None,
    steps_name: str,
    batched: bool | None,
    trial: bool,
) -> StepSystem:
    check_tensors("state", state)
    if inputs is not None:
        check_tensors("inputs", inputs)
    call = _explicit(model, step)
    if not batched:
        length = sequence_length(inputs, steps, steps_name)
        coordinates = _check_step(model, step, call, state, _first(inputs), trial)
        if batched is None and trial and _rows_are_apart(call, state, inputs):
            raise ValueError(rows_message(tuple(pytree.tree_leaves(state)[0].shape)))
        system = StepSystem(call, state, inputs, length, coordinates.size, coordinates.split(state)[0])
        return system.start(length)

    leaves, states = pytree.tree_leaves(inputs) if inputs is not None else [], pytree.tree_leaves(state)
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in leaves or states}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        raise ValueError(f"inputs must have one leading batch axis, one entry per sequence, got {describe(inputs)}")
    (size,) = sizes
    first = _first(inputs)
    length = sequence_length(first, steps, steps_name)
    has_states = all(leaf.ndim and leaf.shape[0] == size for leaf in states)
    one = pytree.tree_map(lambda x: x[0], state) if has_states else state
    try:
        coordinates = _check_step(model, step, call, one, _first(first), trial)
    except ValueError:
        if not has_states or inputs is None:
            raise
        has_states, one = False, state
        coordinates = _check_step(model, step, call, one, _first(first), trial)
    like = coordinates.split(one)[0]
    return StepSystem(call, state, inputs, length, coordinates.size, like, size, has_states).start(length)


def _first(inputs: Any) -> Any:
    return each_input(lambda s: s[0], inputs)


def _rows_are_apart(step: Step, state: Any, inputs: Any) -> bool:
    """Whether the state looks like a batch, one row for each of the second axis of `inputs`, and its rows are apart."""
    states, sequences = pytree.tree_leaves(state), pytree.tree_leaves(inputs) if inputs is not None else []
    sizes = {leaf.shape[0] if leaf.ndim > 1 else 1 for leaf in states}
    sizes |= {leaf.shape[1] if leaf.ndim > 2 else 1 for leaf in sequences}
    if len(sizes) > 1 or sizes <= {1} or not sequences:
        return False

    def depends_on_others(row: int) -> bool:
        leaves, spec = pytree.tree_flatten(state)
        leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in leaves]
        returned = pytree.tree_leaves(step(pytree.tree_unflatten(leaves, spec), _first(inputs)))
        total = sum(x[row].sum() for x in returned if x.requires_grad)
        wanted = [x for x in leaves if x.requires_grad]
        if not isinstance(total, Tensor):
            return True
        gradients = torch.autograd.grad(total, wanted, allow_unused=True)
        others = [g.index_fill(0, torch.tensor(row % len(g), device=g.device), 0) for g in gradients if g is not None]
        return not others or any(bool((g != 0).any()) for g in others)

    with torch.enable_grad():
        return not depends_on_others(0) and not depends_on_others(-1)


def _check_step(model: Any, step: Any, call: Step, state: Any, input: Any, trial: bool) -> Coordinates:
    """The coordinates of the state; ValueError unless the step maps it to a state of the same form, if the order of
    arguments is ambiguous, or, with a `trial`, if the step is not pure."""
    coordinates = Coordinates(state)
    if step is not None:
        coordinates.check_step(call, state, input)
        if trial:
            coordinates.check_pure(call, state, input)
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
    if trial:
        coordinates.check_pure(call, state, input)
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

    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    at, after = 0, None
    if any(not getattr(hook, "observes", False) for hook in hooks) or "forward" in vars(module):
        time = 1 - axis if inputs.ndim == 3 else 0
        at = int(inputs.abs().movedim(time, 0).flatten(1).sum(1).argmax())  # a change of inputs shows in the largest
        one = inputs.narrow(time, at, 1)
        with torch.no_grad():
            after = module(one if recurrent.kind.stacked else one[0], state)
        recurrent = read_module(module) or recurrent  # some hooks compute the weights
    if inputs.ndim == 3:
        inputs = inputs.movedim(axis, 0)
        state = pytree.tree_map(lambda h: h.movedim(-2, 0), state)
    system = ModuleSystem(recurrent, state, inputs, _is_compiled(engine, like.device.type))
    if after is not None:
        one = replace(system, inputs=system.inputs.narrow(-2, at, 1))
        _check_equations(module, one, after[1] if recurrent.kind.stacked else after)
    return system


def _check_equations(module: Any, system: ModuleSystem, after: Any):
    """ValueError unless `after`, what the module makes of its state in a single step, follows from its equations."""
    many = system.batch is not None
    with torch.no_grad():
        expected = orbit(system)[..., 0, :]
        found = real_numbers(pytree.tree_map(lambda h: h.movedim(-2, 0), after) if many else after, axes=int(many))
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
        raise ValueError(
            f"module must compute the equations of nn.{type(module).__name__}, got one whose hooks or forward change "
            "its inputs or outputs: pass a function step(state, input) that calls it"
        )


def _is_compiled(engine: str, device: str) -> bool:
    if engine == "jax" and device != "cpu":
        raise ValueError(f"engine must be 'auto' or 'torch' for a module on {device}, got engine='jax'")
    return engine == "jax" or (engine == "auto" and device == "cpu" and importlib.util.find_spec("jax") is not None)
