"""Functions that behave the same are one function to JAX, and others never are."""

import numpy as np

from flossing._runtime import interning
from flossing._runtime.interning import interned


def closing_over(number):
    def inner():
        return number

    def read():
        return inner()

    def rebind(value):
        nonlocal number
        number = value

    return read, rebind


def test_equal_closures_are_one_and_keep_their_values():
    """The variable of the first is given another value, and an equal closure comes along."""
    (one, rebind), (two, _) = closing_over(1.0), closing_over(1.0)
    kept = interned(one)
    assert interned(two) is kept is not one
    rebind(3.0)
    assert interned(two) is kept and kept() == two() == 1.0
    assert interned(one) is not kept and interned(one)() == 3.0


def test_functions_that_call_themselves():
    def closed(scale):
        def factorial(n):
            return n * factorial(n - 1) if n else scale

        return factorial

    one, two = interned(closed(2)), interned(closed(2))
    assert one is two and one(4) == 48
    assert interned(closed(3))(4) == 72


def test_a_variable_without_a_value_is_not_the_text_empty():
    def make(*values):
        def read():
            return value

        if values:
            (value,) = values
        return read

    assert interned(make()) is not interned(make("empty"))
    assert interned(make()) is interned(make())


def test_code_in_a_folder_beside_the_package_is_not_of_the_package():
    """flossing_experiments/run.py lies beside flossing/, and its globals may change."""
    source = compile("def read():\n    return number", interning._FOLDERS[-1] + "_experiments/run.py", "exec")
    names = {"number": 1.0}
    exec(source, names)
    before = interned(names["read"])
    names["number"] = 2.0
    assert interned(names["read"]) is not before


def test_a_function_that_reads_too_much_equals_no_other():
    numbers = list(np.arange(interning.MOST_READ + 1.0))

    def read():
        return numbers[0]

    before = interned(read)
    numbers[0] = 7.0
    assert interned(read) is not before
    assert interned(read)() == 7.0
    assert interned(read) is not interned(read)
