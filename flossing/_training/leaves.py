"""Which leaves of a model are flossed, and whether two trees are alike."""

import types
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from flossing._tangent.problem import Problem
from flossing._tangent.traced import TracedStep


def mask_of(model: PyTree, where: Callable | None) -> PyTree:
    """`model` with True at the leaves that `where` selects, at all floating arrays by default, and False elsewhere."""
    if where is None:
        mask = jax.tree_util.tree_map(eqx.is_inexact_array, model)
        if not any(jax.tree_util.tree_leaves(mask)):
            raise ValueError(f"model must hold a floating array to floss, got {_describe(model)}")
        return mask
    if not callable(where):
        raise ValueError(f"where must be a function of the model, such as lambda model: model.J, got where={where!r}")
    nothing = jax.tree_util.tree_map(lambda _: False, model)
    mask = eqx.tree_at(where, nothing, replace_fn=lambda _: True)
    chosen = jax.tree_util.tree_leaves(eqx.filter(model, mask))
    if not chosen or not all(map(eqx.is_inexact_array, chosen)):
        got = "a leaf that is not one" if chosen else "none"
        raise ValueError(f"where must select floating arrays of the model, got {got}")
    return mask


def _describe(model: PyTree) -> str:
    if not jax.tree_util.all_leaves([model]) or isinstance(model, types.FunctionType):
        return "none"
    return f"an object of class {type(model).__name__}, which is no pytree: derive the class from equinox.Module"


def check_effect(model: PyTree, mask: PyTree, problem: Problem):
    """Raise ValueError if none of the flossed arrays enters the step; `problem` comes from `set_up` of this model."""
    if not any(used for *_, used in _flossed(model, mask, problem)):
        names = ", ".join(f"{name} {shape}" for name, shape, _ in _flossed(model, mask, problem))
        raise ValueError(f"where must select arrays that enter the step, got {names}, on which it does not depend")


def describe_flossed(model: PyTree, mask: PyTree, problem: Problem) -> str:
    """What flossing changes, in one line: names and shapes."""
    found = _flossed(model, mask, problem)
    used = ", ".join(f"{name} {shape}" for name, shape, used in found if used)
    unused = ", ".join(name for name, _, used in found if not used)
    return f"floss changes {used}" + (f"; without effect on the step: {unused}" if unused else "")


def _flossed(model: PyTree, mask: PyTree, problem: Problem) -> list[tuple[str, tuple[int, ...], bool]]:
    """Name and shape of each flossed array, and whether the step depends on it."""
    assert isinstance(problem.step, TracedStep)
    arrays = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array))
    chosen = {path for path, _ in jax.tree_util.tree_leaves_with_path(eqx.filter(model, mask))}
    uses = zip(arrays, problem.step.uses(len(arrays)), strict=True)
    return [(array_name(path) or "model", leaf.shape, used) for (path, leaf), used in uses if path in chosen]


def array_name(path: tuple) -> str:
    """The path of an array in a model as text, `network.J`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def check_project(project: Callable, model: PyTree):
    """Raise ValueError unless `project` maps the model to one of the same structure."""
    before, after = (
        eqx.filter(eqx.filter_eval_shape(function, model), lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
        for function in (lambda model: model, project)
    )
    if not same_structure(before, after):
        got = "None" if after is None else "another structure"
        raise ValueError(f"project must return a model like the one that it is given, got {got}")


def same_structure(one: PyTree, other: PyTree) -> bool:
    """Whether two trees have the same nodes, and arrays of the same shapes and dtypes at the same leaves."""
    return _structure(one) == _structure(other)


def _structure(tree: PyTree) -> tuple:
    leaves, nodes = jax.tree_util.tree_flatten(tree)
    return nodes, [(jnp.shape(leaf), getattr(leaf, "dtype", None)) for leaf in leaves]
