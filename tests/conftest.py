"""Every test starts from the same state and leaves none behind."""

import gc
import random
import shutil

import numpy as np
import pyro
import pytest
import torch
from torch.distributions import Distribution


def pytest_sessionstart():
    """While a thousand modules are imported there is little to collect, and each look at all of it takes longer."""
    gc.disable()


def pytest_collection_finish():
    gc.freeze()  # modules and tests stay to the end
    gc.enable()


def _seed():
    """What ``pyro.set_rng_seed(0)`` does on the CPU.

    For each kind of accelerator that is not there yet ``torch.manual_seed`` takes a stack trace.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  Pyro seeds numpy's global state too
    if torch.accelerator.is_available():
        torch.manual_seed(0)
    else:
        torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def _clean_state():
    dtype, threads, validate = torch.get_default_dtype(), torch.get_num_threads(), Distribution._validate_args
    _seed()
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    Distribution.set_default_validate_args(validate)
    pyro.clear_param_store()


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium of this machine."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"NO BROWSER: none of {', '.join(BROWSERS)} is on PATH, so pages were NOT opened in one")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("NO PLAYWRIGHT: pip install playwright, so pages were NOT opened in a browser")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()
