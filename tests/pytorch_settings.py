"""What all tests of `flossing.pytorch` share."""

import pytest

torch = pytest.importorskip("torch")
DOUBLE = {"dtype": torch.float64}


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
