"""Fixtures shared by all tests."""

import pytest
import torch

torch.set_num_threads(1)  # the tests run in parallel, and their tensors are tiny


def pytest_collection_modifyitems(items):
    """A test that needs a GPU is skipped where there is none, with the reason shown."""
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Every device this machine has."""
    return torch.device(request.param)
