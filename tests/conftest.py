"""Every test starts from the same state and leaves none behind."""

import random

import numpy as np
import pyro
import pytest
import torch
from torch.distributions import Distribution


@pytest.fixture(autouse=True)
def _clean_state():
    dtype, threads, validate = torch.get_default_dtype(), torch.get_num_threads(), Distribution._validate_args
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  Pyro seeds numpy's global state too
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    Distribution.set_default_validate_args(validate)
    pyro.clear_param_store()


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
