"""Random numbers that the user's stream does not feel."""

import traceback

import torch

from pyro_vae.randomness import fork_rng


def test_a_seeded_stream_is_torchs_own_and_the_users_goes_on():
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    first, second = torch.rand(2), torch.rand(2)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(2), first)
    with fork_rng(seed=7):
        assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(torch.rand(2), second)


def test_no_stack_trace_is_taken_for_accelerators_that_are_not_there(monkeypatch):
    def refused():
        raise AssertionError("a stack trace, which takes longer than the block")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(traceback, "format_stack", refused)
    with fork_rng(seed=3):
        torch.rand(1)
