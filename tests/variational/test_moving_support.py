"""Data whose support depends on a latent are legal whatever the random state: the same rule as every route's."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv


def waiting(x):
    theta_loc = pyro.param("prior", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        theta = pyro.sample("z", dist.LogNormal(theta_loc, 1.0))
        pyro.sample("x", dist.Uniform(0.0, theta), obs=x)


def above(x):
    loc = pyro.param("loc", torch.tensor(0.0))
    with pyro.plate("data", len(x)):  # exp(.) + 1 is above every datum: no draw contradicts the data
        pyro.sample(
            "z", dist.TransformedDistribution(dist.LogNormal(loc, 0.5), dist.transforms.AffineTransform(1.0, 1.0))
        )


@pytest.mark.parametrize("seed", range(8))
def test_acceptance_does_not_hang_on_the_random_state(seed):
    pyro.set_rng_seed(seed)
    history = pv.fit(waiting, above, torch.full((6,), 0.9), epochs=1, validation=None, progress=False, compile=False)
    assert len(history.train_elbo) == 1


def test_data_outside_a_support_that_stays_are_refused():
    def counts(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Poisson(z.exp()), obs=x)

    def guide(x):
        loc = pyro.param("q", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    with pytest.raises(ValueError, match="support of Poisson"):
        pv.fit(counts, guide, torch.tensor([1.0, -1.0]), epochs=1, validation=None, progress=False)
