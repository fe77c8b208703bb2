"""A thousand careless or hostile configurations: each either runs or ends with a one-line error."""

import contextlib
import io

import jax
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from flossing_lab import cli
from flossing_lab.reference import experiment as reference
from flossing_lab.reference.config import Config
from flossing_lab.runs import run as running
from flossing_lab.runs.config import explain_invalid
from flossing_lab.runs.directory import RunDirectory
from tests.test_train import SMALL

FIELDS = [name for name in SMALL.values() if name not in ("dtype",)]
NUMBERS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 10, 55, 300, 10**5, 10**6, 10**9, 10**9 + 1, 2**32, 10**30, -(10**18)]),
    st.sampled_from([0.5, -0.0, 1e-300, 1e300, -1e5, float("nan"), float("inf"), float("-inf")]),
    st.sampled_from(["", "ten", "none", "None", "copy", "spatial_xor", "1e3", "0x10", "١", "\x00", "é", "a b", "--k"]),
)
ARGUMENTS = st.dictionaries(st.sampled_from(FIELDS), NUMBERS, min_size=1, max_size=4)


@pytest.fixture(autouse=True)
def a_process_of_many(monkeypatch):
    """Do not fill the user's cache, and leave the precision to the other tests."""
    monkeypatch.setattr("flossing_lab.runs.process.cache_compilations", lambda: None)
    yield
    jax.config.update("jax_enable_x64", True)


def call(*arguments: str) -> tuple[int, str]:
    """Exit code and stderr of the command line, in this process."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main(arguments)
            code = 0
        except SystemExit as end:
            code = end.code
    return code, said.getvalue()  # pyright: ignore[reportReturnType]


@settings(max_examples=1000, deadline=None)
@given(values=ARGUMENTS)
def test_a_thousand_configurations(values):
    try:
        config = Config().with_values(**values)
        reference.check_memory(config)
        reference.make_task(config)
    except ValueError as error:
        said = explain_invalid(error) if isinstance(error, ValidationError) else str(error)
        assert "\n" not in said and any(name in said for name in (*values, "input")), said
    else:
        assert Config.model_validate_json(config.model_dump_json()) == config


@settings(max_examples=60, deadline=None)
@given(values=ARGUMENTS)
def test_a_configuration_is_legal_or_ends_in_one_line(values, tmp_path_factory):
    out = tmp_path_factory.getbasetemp() / "never"
    begun = []

    def begin(config, out, **_):
        # All that is checked before the directory is touched; the runs themselves are the tests below.
        reference.check_memory(config)
        reference.make_task(config)
        begun.append(config)
        raise FloatingPointError("begun")

    arguments = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "run", begin)
        code, said = call("train", "--out", str(out), *arguments)
    assert not out.exists()
    if begun:
        assert isinstance(begun[0], Config)
        assert (code, said) == (1, "flossing: begun\n")
    else:
        assert code == 2 and said.startswith("flossing: ") and said.count("\n") == 1, said
        assert any(name in said.replace("-", "_") for name in (*values, "input", "task")), said


LEGAL = {
    "units": st.integers(2, 12),
    "k": st.integers(1, 12),
    "task": st.sampled_from(["copy", "temporal_xor", "spatial_xor"]),
    "delay": st.integers(1, 8),
    "order": st.integers(1, 3),
    "steps": st.integers(1, 30),
    "batch": st.integers(1, 4),
    "window": st.integers(1, 20),
    "flossing_steps": st.integers(1, 30),
    "transient": st.none() | st.integers(0, 10),
    "interval": st.integers(1, 3),
    "condition": st.sampled_from(["none", "before", "during", "before_and_during"]),
    "epochs": st.integers(1, 8),
    "preflossing": st.integers(0, 3),
    "interflossing": st.integers(0, 3),
    "every": st.integers(1, 5),
    "blocks": st.integers(0, 2),
    "chunk": st.integers(1, 4),
    "singular_values_every": st.integers(0, 3),
    "snapshots_every": st.integers(0, 3),
    "gain": st.sampled_from([0.0, 0.5, 1.0, 5.0, 1e30, -1.0]),
    "learning_rate": st.sampled_from([1e-3, 1e-300, 1e30]),
    "clip": st.sampled_from([0.03, 1e-300, 1e300]),
}


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("examples", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_a_small_configuration_runs_or_ends_in_one_line(examples, tmp_path):
    number = iter(range(10**6))

    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(values=st.fixed_dictionaries(LEGAL))
    def check(values):
        out = tmp_path / str(next(number))
        arguments = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        code, said = call("train", "--out", str(out), *arguments)
        assert "Traceback" not in said
        if code == 2:  # refused: nothing may be left that stands in the way
            assert said.count("\n") == 1 and not out.exists(), said
            return
        info = RunDirectory(out).info
        assert (code, info["status"]) in ((0, "finished"), (1, "failed")), said
        # And whatever it was, the next start goes on from there.
        assert call("train", "--out", str(out), *arguments)[0] == code

    check()
