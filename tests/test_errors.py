"""Bad input to `lyapunov_spectrum`: one line that names the argument, its value and what is legal."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flossing as fl
from flossing.cells import VanillaRNN


def step(h, s):
    return jnp.tanh(h) + s


GOOD = {"model": step, "state": jnp.zeros(3), "inputs": jnp.ones((10, 3))}

CASES = [
    ({"k": 4}, r"k must be an integer from 1 to 3 \(the state has 3 real coordinates\), got k=4"),
    ({"k": 0}, "k must be an integer from 1 to 3"),
    ({"k": True}, "k must be an integer from 1 to 3.*got k=True"),
    ({"transient": 10}, r"transient must be an integer from 0 to 9 \(the run has 10 steps\), got transient=10"),
    ({"transient": -1}, "transient must be an integer from 0 to 9"),
    ({"interval": 0}, "interval must be an integer of at least 1 or 'auto', got interval=0"),
    ({"steps": 11}, r"steps must be an integer from 1 to 10 \(inputs have 10 steps\), got steps=11"),
    ({"inputs": None}, r"steps must be given for an autonomous system \(inputs=None\), got steps=None"),
    ({"inputs": None, "steps": 0}, "steps must be an integer of at least 1, got steps=0"),
    ({"inputs": jnp.array(1.0)}, "inputs must have a leading time axis, got a scalar"),
    ({"inputs": jnp.ones((0, 3))}, "inputs must have at least one time step, got length 0"),
    ({"inputs": (jnp.ones((4, 3)), jnp.ones((5, 3)))}, r"inputs must share one leading time axis, got lengths .*4.*5"),
    ({"inputs": jnp.ones((10, 3)).at[4, 1].set(jnp.nan)}, r"inputs must be finite, got nan at index \(4, 1\)"),
    ({"state": jnp.array([0.0, jnp.inf, 0.0])}, r"state must be finite, got inf at index \(1,\)"),
    ({"state": "zero"}, "state must be an array or a number, got 'zero' of type str"),
    ({"state": np.array(["a"])}, "state must hold numbers, got dtype <U1"),
    ({"state": jnp.zeros(3, int)}, r"state must have a floating leaf.*got int64\[3\]"),
    ({"state": (jnp.zeros(3), jnp.zeros(3, "f4"))}, r"leaves of one precision, got \(float64\[3\], float32\[3\]\)"),
    ({"basis": np.eye(4)[:, :2]}, r"basis must have shape \(3, k\) with k = 1 to 3 for this state, got shape \(4, 2\)"),
    ({"basis": np.eye(3), "k": 2}, r"basis must have shape \(3, k\) with k = 2"),
    ({"basis": np.ones((3, 2))}, "basis must have linearly independent columns, got column 1 dependent"),
    ({"basis": np.full((3, 2), np.nan)}, "basis must be finite"),
    ({"model": lambda h, s: jnp.ones((2, 2)) @ h}, r"step must accept a state like float64\[3\] and an input like"),
    ({"model": lambda h, s: h[:2]}, r"step must return a state like.* given, float64\[3\], got float64\[2\]"),
    ({"model": lambda h, s: (h, h)}, r"step must return a state like.*got \(float64\[3\], float64\[3\]\)"),
    ({"model": lambda h, s: h.astype("f4")}, r"step must return a state like.*got float32\[3\]"),
    ({"inputs": jnp.ones(10), "model": lambda h, s: h + jnp.ones((3, 1)) @ s}, "step must accept a state like.*got"),
    ({"model": lambda h, s: h["a"]}, "step must accept a state like.*got"),
    ({"model": lambda h, s: (lambda a, b: a)(*h)}, "step must accept a state like.*got"),
    ({"state": (jnp.zeros(3), 1), "model": lambda h, s: (h[0], 1)}, r"step must return.*got \(float64\[3\], 1\)"),
    ({"state": jnp.zeros(3, jnp.bfloat16)}, r"state must be of float32 or float64, got bfloat16\[3\]"),
    ({"state": jnp.zeros(0)}, r"state must have at least one coordinate, got float64\[0\]"),
    ({"model": lambda h, s: h / 0 * 0}, "step must keep the state and its tangents finite.*block 0"),
    ({"model": lambda h, s: h**3 + 10}, "finite"),
    ({"model": eqx.Partial(lambda W, h, s: W @ h, jnp.full((3, 3), jnp.nan))}, r"model.args\[0\] must be finite"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        fl.lyapunov_spectrum(**(GOOD | change))
    assert "\n" not in str(caught.value)


def test_the_good_case_is_good():
    assert np.isfinite(fl.lyapunov_spectrum(**GOOD).exponents).all()


def test_bad_shapes_are_seen_inside_jit_too():
    with pytest.raises(ValueError, match="k must be an integer from 1 to 3"):
        jax.jit(lambda h: fl.lyapunov_spectrum(step, jnp.ones((10, 3)), state=h, k=5, transient=0).exponents)(
            jnp.zeros(3)
        )


@pytest.mark.parametrize("change", [{"units": 0}, {"inputs": 0}])
def test_bad_networks(change):
    with pytest.raises(ValueError, match="must be an integer of at least 1, got"):
        VanillaRNN(**({"units": 3} | change), key=jax.random.key(0))


def test_unknown_names():
    with pytest.raises(AttributeError, match="attribute lyapunov"):
        fl.lyapunov  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    assert "floss" in fl.__all__
    assert all(getattr(fl, name) is not None for name in fl.__all__)


def test_matrices_that_have_no_qr():
    with pytest.raises(ValueError, match=r"a must be a matrix \(N, k\) of float32 or float64.*got float64\[2,4\]"):
        fl.orthonormalise(jnp.ones((2, 4)))


class Model(eqx.Module):
    cell: eqx.nn.GRUCell
    scale: float = 1.0

    def __call__(self, tokens):
        return self.scale * tokens


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: fl.lyapunov_spectrum(m, jnp.ones((9, 2))),
            "for Model; to measure its cell, pass model.cell and",
        ),
        (lambda m: fl.lyapunov_spectrum(m.cell, jnp.arange(9)), r"; for a sequence of tokens, pass their embeddings"),
        (lambda m: fl.diagnose(m.cell, jnp.ones((3, 9, 2)), horizon=4), r"inputs must be one sequence .*\(3, 9, 2\)"),
    ],
)
def test_the_message_says_what_to_pass_instead(call, message):
    with pytest.raises(ValueError, match=message):
        call(Model(eqx.nn.GRUCell(2, 4, key=jax.random.key(0))))
