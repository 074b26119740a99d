"""Fixtures shared by all tests."""

import os

import pytest
import torch
from browsers import CHROMIUM, OPTIONS, unavailable
from hypothesis import settings

torch.set_num_threads(1)  # the tests run in parallel, and their tensors are tiny

# How many examples hypothesis tries of each property; a slow machine is no reason to fail.
settings.register_profile("full", max_examples=1000, deadline=None)
settings.register_profile("fast", max_examples=50, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "full")


def pytest_collection_modifyitems(items):
    """A test that needs a GPU is skipped where there is none, with the reason shown."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):  # item.keywords would also hold a parameter of that name
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Every device this machine has."""
    return torch.device(request.param)


@pytest.fixture(scope="module")
def browser():
    """Start Chromium, the one on this machine."""
    if CHROMIUM is None:
        unavailable("there is no Chromium; install the package chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()
