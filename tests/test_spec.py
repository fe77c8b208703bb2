"""Sweep specifications: the runs they expand to, and one-line errors for invalid ones."""

import datetime
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from flossing_lab.reference.config import Config
from flossing_lab.sweeps.spec import MOST_POINTS, Spec, describe, read_spec

EXAMPLE = Path(__file__).parent.parent / "examples" / "delays.toml"


def written(folder, text):
    path = folder / "some_sweep.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def complaint(path):
    with pytest.raises(ValueError, match=": ") as caught:
        read_spec(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: ")
    assert len(line) < 1000
    return line.removeprefix(f"{path}: ")


def test_points_are_the_product_of_zipped_tables(tmp_path):
    text = """
    [base]
    epochs = 7
    seed = 5
    seed_input = 6
    [[axes]]
    delay = [2, 4]
    window = [20, 30]
    [[axes]]
    condition = ["none", "before"]
    """
    spec = read_spec(written(tmp_path, text))
    assert spec.name == "some_sweep"
    points = spec.points()
    assert [point.values for point in points] == [
        {"delay": delay, "window": window, "condition": condition}
        for delay, window in ((2, 20), (4, 30))
        for condition in ("none", "before")
    ]
    seeds = {"seed": 5, "seed_input": 6}  # one seed of its own beside the one for all
    expected = Config().with_values(epochs=7, delay=4, window=30, condition="before", **seeds)
    assert points[-1].config == expected
    assert describe(points[-1].values) == "delay=4, window=30, condition=before"


def test_the_example_is_a_legal_sweep():
    spec = read_spec(EXAMPLE)
    assert spec.name == "delays"
    assert len(spec.points()) == 18


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    assert read_spec(written(tmp_path, b"\xef\xbb\xbf[[axes]]\nseed = [1]\n")).points()


def test_reading_does_not_import_jax():
    code = f"import sys; from flossing_lab.sweeps.spec import read_spec; read_spec({str(EXAMPLE)!r})\n"
    code += "assert not {'jax', 'numpy'} & set(sys.modules), 'heavy import'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


AXIS = "[[axes]]\nseed = [1, 2]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "axes must be tables of fields, each headed [[axes]], got axes=None"),
        ("axes = []", "axes must be tables of fields, each headed [[axes]], got axes=[]"),
        ("[axes]\nseed = [1]", "axes must be tables of fields, each headed [[axes]], got axes={'seed': [1]}"),
        ("[[axes]]", "axes must be tables of fields, each headed [[axes]], got axes=[{}]"),
        ("axes = [[1, 2]]", "axes must be tables of fields, each headed [[axes]], got axes=[[1, 2]]"),
        ("[[axes]]\nseed = []", "seed must be a list of at least one value, got seed=[]"),
        ("[[axes]]\nseed = 3", "seed must be a list of at least one value, got seed=3"),
        ("[[axes]]\nseed = [1, 1]", "points must be runs that differ, got seed=1 and seed=1"),
        ("[[axes]]\ngain = [1, 1.0]", "points must be runs that differ, got gain=1 and gain=1.0"),
        ("[[axes]]\nchunk = [1, 2, 3]\n[[axes]]\nchunk = [1]", "chunk must be given once, in base or in"),
        ("[base]\nseed = 1\n" + AXIS, "seed must be given once, in base or in one axis, got 2 times"),
        ("[base]\nself = 1\n" + AXIS, "self is not a field of the configuration; legal are amplitude, "),
        ("[base.network]\nunits = 9\n" + AXIS, "network is not a field of the configuration"),
        ("[[axes]]\ndelays = [1]", "delays is not a field of the configuration; did you mean delay?"),
        ("[[axes]]\ntask_options = [{}]", 'it is one of the experiment own: put experiment = "own" into [base]'),
        ("[base]\ntask = 'mine.py:T'\n" + AXIS, 'for classes of your own, put experiment = "own" into [base]'),
        ('[base]\n"a\\nb" = 1\n' + AXIS, "a b is not a field of the configuration"),
        ("title = 'x'\n" + AXIS, "title is not a key of a specification; legal are name, base, axes"),
        ("base = 3\n" + AXIS, "base must be a valid dictionary, got base=3"),
        ("name = 3\n" + AXIS, "name must be a valid string, got name=3"),
        ("name = '../up'\n" + AXIS, "name (by default the file's) must be 1 to 100 letters, digits, - and _, got"),
        ("[[axes]]\ndelay = [1, 2]\nwindow = [9]", "must have equally many values, got 2 of delay, 1 of window"),
        ("[[axes]]\ndelay = [1, -2]", "at delay=-2: delay must be greater than or equal to 0, got delay=-2"),
        ("[[axes]]\ndelay = [2.5]", "at delay=2.5: delay must be a valid integer, got delay=2.5"),
        ("[[axes]]\ndelay = [true]", "at delay=True: delay must be a valid integer, got delay=True"),
        ("[[axes]]\ndelay = [[1]]", "at delay=[1]: delay must be a valid integer, got delay=[1]"),
        ("[[axes]]\ndelay = [2020-01-01]", "at delay=2020-01-01: delay must be a valid integer, got"),
        ("[[axes]]\ngain = [nan]", "at gain=nan: gain must be a finite number, got gain=nan"),
        ("[[axes]]\ngain = [-inf]", "at gain=-inf: gain must be a finite number, got gain=-inf"),
        (f"[[axes]]\nepochs = [1{'0' * 99}]", "epochs must be less than or equal to 1000000000, got epochs=1000"),
        (f"[[axes]]\ngain = [1{'0' * 999}]", "gain=1000"),
        ("[[axes]]\ncondition = ['always']", "condition must be 'none', 'before', 'during', 'before_and_during' or "),
        ("[base]\nk = 20\n[[axes]]\nunits = [30, 10]", "at units=10: k must be an integer from 1 to 10"),
        ("[[axes]]\nseed = [1\n", "Unclosed array (at end of document)"),
        ("\n\nseed == 1\n", "Invalid value (at line 3, column 7)"),
        ("[[axes]]\nseed = [1" + "0" * 5000 + "]", "Exceeds the limit"),
        ("axes = " + "[" * 5000, "specification must be tables of values, got some nested beyond measure"),
        ("\n[[axes]] # Zur\xfcck\n".encode("latin-1"), "specification must be UTF-8, got byte 0xfc (line 2)"),
        (AXIS.encode("utf-16"), "specification must be UTF-8, got byte 0xff (line 1)"),
        (AXIS.encode("utf-16-le"), "Invalid"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(tmp_path, text, message):
    assert message in complaint(written(tmp_path, text))


def test_what_is_no_file_is_named(tmp_path):
    assert complaint(tmp_path) == "specification must be a TOML file, got a directory"
    assert complaint(tmp_path / "missing.toml") == "specification must be a TOML file, got a path where nothing is"
    assert complaint(tmp_path / ("x" * 300)).startswith("specification must be a TOML file that can be read: ")


def test_too_many_points_are_refused_before_they_are_made():
    axes = [{field: list(range(1, 1001))} for field in ("seed_network", "seed_input", "seed_basis")]
    with pytest.raises(ValueError, match=f"axes must make at most {MOST_POINTS} points, got 1000000000"):
        Spec(name="x", axes=axes)


def test_a_specification_is_frozen():
    spec = Spec(name="x", axes=[{"seed": [1]}])
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "y"  # pyright: ignore


PLAIN = {
    int: st.integers(1, 30),
    float: st.floats(0.1, 0.9),
    str: st.sampled_from(["none", "before", "copy", "float64"]),
}
ODD = (
    st.integers() | st.floats() | st.booleans() | st.text(max_size=3) | st.dates() | st.lists(st.integers(), max_size=2)
)
FIELDS = {field: type(value) for field, value in (Config().values() | {"seed": 1, "chunk": 1}).items()}
FIELDS |= dict.fromkeys(("self", "network", "delays"), str)


@st.composite
def tables(draw, lists):
    """A table of one field or two, values or lists of them, mostly as they should be."""
    length, table = draw(st.integers(1, 3)), {}
    for field in draw(st.lists(st.sampled_from([*FIELDS]), min_size=1, max_size=2, unique=True)):
        is_odd = draw(st.integers(0, 14)) == 0
        value = ODD if is_odd else PLAIN.get(FIELDS[field], st.integers(1, 9))
        values = (
            st.lists(value, max_size=3) if is_odd else st.lists(value, min_size=length, max_size=length, unique=True)
        )
        table[field] = draw(values if lists else value)
    return table


RUBBISH = st.sampled_from([*[""] * 15, "[", "x = 1", "\0"])


@settings(max_examples=1000, deadline=None)
@given(tables(lists=False), st.lists(tables(lists=True), min_size=1, max_size=2), RUBBISH)
def test_any_file_gives_points_or_one_line(tmp_path_factory, base, axes, rubbish):
    lines = [rubbish, "[base]", *(f"{field} = {toml(value)}" for field, value in base.items())]
    for axis in axes:
        lines += ["[[axes]]", *(f"{field} = {toml(values)}" for field, values in axis.items())]
    path = written(tmp_path_factory.getbasetemp(), "\n".join(lines).encode("utf-8", "surrogatepass"))
    try:
        points = read_spec(path).points()
    except ValueError as error:
        lines = str(error).splitlines()
        assert [line.startswith(f"{path}: ") for line in lines] == [True]
    else:
        assert (
            len({point.config.digest for point in points})
            == len(points)
            == math.prod(len(next(iter(axis.values()))) for axis in axes)
        )


def toml(value):
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return value.isoformat() if isinstance(value, datetime.date) else str(value)
