"""A program's modules are found whether it is one, a method of one, or a function that calls some."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.inference.target.modules import TrainingModes, evaluating, modules_of
from pyro_vae.inference.target.target import Target

GLOBAL = nn.Dropout(0.5)


def calls_a_global(x):
    return GLOBAL(x)


def calls_through_another(x):
    return calls_a_global(x)


class Holder:
    def __init__(self):
        self.net = nn.Dropout(0.5)

    def model(self, x):
        return self.net(x)


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Dropout(0.5)

    def model(self, x):
        return self.net(x)


def _closure(net):
    def model(x):
        return net(x)

    return model


def _default(net):
    def model(x, net=net):
        return net(x)

    return model


def _wrapped(net):
    return pyro.poutine.scale(_closure(net), scale=0.5)


@pytest.mark.parametrize("make", [_closure, _default, _wrapped, lambda net: functools.partial(_closure(net))])
def test_of_a_function(make):
    net = nn.Dropout(0.5)
    assert modules_of(make(net)) == [net]


def test_of_globals_methods_and_modules():
    assert modules_of(calls_through_another) == [GLOBAL]
    holder, whole = Holder(), Whole()
    assert modules_of(holder.model) == [holder.net]
    assert modules_of(whole.model) == [whole] == modules_of(whole)
    assert modules_of(torch.relu) == []


def test_a_function_is_evaluated_without_dropout_and_its_module_keeps_its_mode():
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    target = Target(model, torch.zeros(4, 3))
    u = torch.ones(4, 3)
    assert torch.equal(target.log_joint(u), target.log_joint(u))
    assert all(part.training for part in net.modules())
    with evaluating(model):
        assert not any(part.training for part in net.modules())


def test_modes_of_what_a_function_calls_are_its_users():
    frozen, learnt = nn.BatchNorm1d(2).eval(), nn.BatchNorm1d(2)

    def model(x):
        return frozen(learnt(x))

    modes = TrainingModes([model, Whole().model])
    assert len(modes.buffers()) == 6
    (owner,) = modes.owners
    for move, expected in ((modes.train, True), (modes.eval, False)):
        move()
        assert (frozen.training, learnt.training, owner.net.training) == (False, expected, expected)
    modes.end()
    assert (frozen.training, learnt.training, owner.net.training) == (False, True, False)
