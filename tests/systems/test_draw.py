"""DRAW against its paper's formulas written out, and through every route."""

import copy
import io
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear

import pyro_vae as pv
from pyro_vae.inference.compiled.elbos import CompiledELBO
from pyro_vae.systems.drawing.attention import WindowHead, gaussian_window
from tests.checkpoints import InMemory
from tests.truth import STANDARD_ERRORS

ATTENTION = [None, (2, 3)]


def _draw(attention=None, **kinds):
    sizes = {"latent_dim": 2, "num_glimpses": 3, "hidden": 6} | kinds
    draw = pv.systems.DRAW((4, 5), attention=attention, **sizes)
    with torch.no_grad():  # weights that matter
        for name, parameter in draw.named_parameters():
            if "place" not in name:
                parameter.copy_(torch.randn_like(parameter) / max(1, parameter.shape[-1]) ** 0.5)
    return draw


def _binary(num_data, width):
    return torch.bernoulli(torch.full((num_data, width), 0.5))


# The window, by equations 19 to 29 of the paper.


def _filterbanks_by_loops(raw, B, A, n):
    """F_X and F_Y of one image by equations 19 to 26, a number at a time, pixels counted from 1."""
    tilde_x, tilde_y, log_variance, log_stride, _ = raw.tolist()
    g_x, g_y = (A + 1) / 2 * (tilde_x + 1), (B + 1) / 2 * (tilde_y + 1)  # 22, 23
    delta = (max(A, B) - 1) / (n - 1) * math.exp(log_stride)  # 24
    banks = []
    for g, width in ((g_x, A), (g_y, B)):
        bank = torch.zeros(n, width)
        for i in range(1, n + 1):
            mu = g + (i - n / 2 - 0.5) * delta  # 19, 20
            weights = [math.exp(-((a - mu) ** 2) / (2 * math.exp(log_variance))) for a in range(1, width + 1)]
            bank[i - 1] = torch.tensor([w / sum(weights) for w in weights])  # 25, 26
        banks.append(bank)
    return banks


@pytest.mark.usefixtures("float64")
def test_filters_reading_and_writing_are_the_papers():
    B, A, n = 5, 7, 3
    raw, x, patch = 0.5 * torch.randn(4, 5), torch.rand(4, B, A), torch.randn(4, n, n)
    window = gaussian_window(raw, (B, A), n)
    read, written = window.read(x), window.write(patch)
    for m in range(4):
        F_x, F_y = _filterbanks_by_loops(raw[m], B, A, n)
        torch.testing.assert_close(window.filters_x[m], F_x)
        torch.testing.assert_close(window.filters_y[m], F_y)
        gamma = math.exp(raw[m, 4])
        F_x, F_y, image, w = (t.tolist() for t in (F_x, F_y, x[m], patch[m]))
        for j in range(n):
            for i in range(n):
                want = sum(F_y[j][b] * image[b][a] * F_x[i][a] for b in range(B) for a in range(A))
                assert float(read[m, j, i]) == pytest.approx(gamma * want)  # 27
        for b in range(B):
            for a in range(A):
                want = sum(F_y[j][b] * w[j][i] * F_x[i][a] for j in range(n) for i in range(n))
                assert float(written[m, b, a]) == pytest.approx(want / gamma)  # 29


@pytest.mark.usefixtures("float64")
def test_autograd_agrees_with_differences():
    raw, x, patch = torch.randn(2, 5), torch.rand(2, 4, 5), torch.randn(2, 3, 3)
    inputs = [t.requires_grad_() for t in (0.3 * raw, x, patch)]

    def both(raw, x, patch):
        window = gaussian_window(raw, (4, 5), 3)
        return window.read(x), window.write(patch), window.box

    assert torch.autograd.gradcheck(both, inputs)


@pytest.mark.usefixtures("float64")
def test_a_sharp_window_at_unit_stride_crops_and_pastes():
    centre_x, centre_y = 2 / 9 * 4 - 1, 2 / 7 * 3 - 1  # pixel 4 of 8, row 3 of 6
    raw = torch.tensor([centre_x, centre_y, -8.0, math.log(2 / 7), 0.0])  # stride 7 / (3 - 1) * 2 / 7 = 1
    window = gaussian_window(raw, (6, 8), 3)
    x, patch = torch.rand(6, 8), torch.rand(3, 3)
    torch.testing.assert_close(window.read(x), x[1:4, 2:5])
    pasted = torch.zeros(6, 8)
    pasted[1:4, 2:5] = patch
    torch.testing.assert_close(window.write(patch), pasted)
    torch.testing.assert_close(window.box, torch.tensor([2.0, 1.0, 4.0, 3.0]))


@pytest.mark.usefixtures("float64")
def test_rows_sum_to_one_however_far_out_and_writing_is_the_adjoint_of_reading():
    raw = torch.randn(50, 5) * torch.tensor([3.0, 3.0, 5.0, 2.0, 1.0])
    raw[0] = torch.tensor([1e4, -1e4, -1e4, 1e4, 0.0])  # a wild first step
    window = gaussian_window(raw, (4, 6), 3)
    for filters in (window.filters_x, window.filters_y):
        torch.testing.assert_close(filters.sum(-1), torch.ones(50, 3))
    x, patch = torch.randn(50, 4, 6), torch.randn(50, 3, 3)
    inside = (window.read(x) * patch).sum((-2, -1)) / window.intensity
    torch.testing.assert_close(inside, (x * window.write(patch)).sum((-2, -1)) * window.intensity)


def test_a_window_starts_over_the_whole_image_and_misses_no_pixel():
    window = WindowHead(6, (8, 8), 3)(torch.zeros(6))
    torch.testing.assert_close(window.box.detach(), torch.tensor([0.0, 0.0, 7.0, 7.0]))
    assert bool((window.filters_x.sum(0) > 0.1).all())
    written = WindowHead(6, (28, 28), 5, writes=True)(torch.zeros(6)).write(torch.ones(5, 5))
    torch.testing.assert_close(written[6:-6, 6:-6].mean().detach(), torch.tensor(1.0), atol=0.1, rtol=0)


# The ELBO, by the paper's equations in torch's own LSTM cell.


def _cell(gates, width):
    """The weights of one linear map of input and state, in torch's LSTM cell: its order of gates is the same."""
    weight, bias = gates
    cell = nn.LSTMCell(weight.shape[1] - width, width)
    with torch.no_grad():
        cell.weight_ih.copy_(weight[:, :-width])
        cell.weight_hh.copy_(weight[:, -width:])
        cell.bias_ih.copy_(bias)
        cell.bias_hh.copy_(torch.cat([torch.zeros(width), torch.ones(width), torch.zeros(2 * width)]))  # open at first
    return cell


def _read(draw, x, error, hidden):
    read = draw.guide.read
    if hasattr(read, "image"):
        return linear(torch.cat([x, error], -1), torch.cat([read.image.weight, read.error.weight], -1), read.image.bias)
    raw, n, patches = linear(hidden, read.window.place.weight, read.window.place.bias), read.window.size, []
    for m in range(len(x)):
        F_x, F_y = _filterbanks_by_loops(raw[m], *draw.image_shape, n)
        patches.append([raw[m, 4].exp() * (F_y @ image[m].view(draw.image_shape) @ F_x.T) for image in (x, error)])
    flat = torch.stack([torch.cat([p.flatten() for p in pair]) for pair in patches])
    return linear(flat, read.patches.weight, read.patches.bias)


def _write(draw, hidden):
    write = draw.guide.decoder.write
    if isinstance(write, nn.Linear):
        return linear(hidden, write.weight, write.bias)
    raw, n = linear(hidden, write.window.place.weight, write.window.place.bias), write.window.size
    patch, images = linear(hidden, write.patch.weight, write.patch.bias), []
    for m in range(len(hidden)):
        F_x, F_y = _filterbanks_by_loops(raw[m], *draw.image_shape, n)
        images.append((F_y.T @ patch[m].view(n, n) @ F_x / raw[m, 4].exp()).flatten())
    return torch.stack(images)


@torch.no_grad()
def _elbo_by_hand(draw, x, noise):
    """Log-likelihood, and of every glimpse log q - log p and KL(q_t || p_t), each ``(N,)``; noise ``(N, T, L)``."""
    decoder, guide, H, N = draw.guide.decoder, draw.guide, draw.guide.first_hidden.numel(), len(x)
    decode = _cell((decoder.gates.weight, decoder.gates.bias), H)
    canvas = decoder.first_canvas.expand(N, -1)
    h_dec, c_dec = (p.expand(N, -1) for p in (decoder.first_hidden, decoder.first_cell))
    h_enc, c_enc = (p.expand(N, -1) for p in (guide.first_hidden, guide.first_cell))
    forget = torch.cat([torch.zeros(H), torch.ones(H), torch.zeros(2 * H)])
    sampled, closed = [], []
    for t in range(draw.num_glimpses):
        gates = _read(draw, x, x - canvas.sigmoid(), h_dec) + forget
        gates = gates + linear(h_enc, guide.states.weight[:, :H]) + linear(h_dec, guide.states.weight[:, H:])
        i, f, g, o = gates.split(H, -1)
        c_enc = f.sigmoid() * c_enc + i.sigmoid() * g.tanh()
        h_enc = o.sigmoid() * c_enc.tanh()
        mu, raw = linear(h_enc, guide.head.weight, guide.head.bias).chunk(2, -1)
        sigma = (1 + raw.exp()).log() + 1e-6
        z = mu + sigma * noise[:, t]
        sampled.append((-sigma.log() - noise[:, t] ** 2 / 2 + z**2 / 2).sum(-1))
        closed.append((mu**2 + sigma**2 - 1 - 2 * sigma.log()).sum(-1) / 2)  # the paper's equation 11
        h_dec, c_dec = decode(z, (h_dec, c_dec))
        canvas = canvas + _write(draw, h_dec)
    log_likelihood = -binary_cross_entropy_with_logits(canvas, x, reduction="none").sum(-1)
    return log_likelihood, torch.stack(sampled), torch.stack(closed)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("attention", ATTENTION)
def test_the_elbo_is_the_papers_under_the_same_noise_compiled_or_not(attention):
    draw, x = _draw(attention, num_glimpses=2), _binary(6, 20)
    compiled = CompiledELBO(Trace_ELBO(), backend="eager")
    for seed in range(5):  # the graph is in use after four calls
        torch.manual_seed(seed)
        noise = torch.randn(6, 4).unflatten(-1, (2, 2))
        log_likelihood, sampled, _ = _elbo_by_hand(draw, x, noise)
        want = -float((log_likelihood - sampled.sum(0)).sum())
        for elbo in (Trace_ELBO(), compiled):
            torch.manual_seed(seed)
            assert elbo.loss(draw.model, draw.guide, x) == pytest.approx(want, rel=1e-10)
    assert compiled.num_graphs == 1


@pytest.mark.usefixtures("float64")
def test_log_q_less_log_p_is_on_average_the_papers_sum_of_kls():
    draw, x = _draw(), _binary(1, 20).expand(4000, -1)
    _, sampled, closed = _elbo_by_hand(draw, x, torch.randn(4000, 3, 2))
    difference = sampled.sum(0) - closed.sum(0)
    assert abs(difference.mean()) < STANDARD_ERRORS * difference.std() / len(difference) ** 0.5
    z = draw.guide.posterior(x).rsample()
    of_guide = draw.guide.posterior(x).log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    pooled = ((of_guide.var() + closed.sum(0).var()) / 4000) ** 0.5
    assert abs(of_guide.mean() - closed.sum(0).mean()) < STANDARD_ERRORS * pooled


# The guide's law.


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("attention", ATTENTION)
def test_the_guides_density_integrates_to_one_and_is_the_same_in_a_pass_of_its_own(attention):
    draw = _draw(attention, latent_dim=1, num_glimpses=2)
    q = draw.guide.posterior(_binary(2, 20))
    grid = torch.linspace(-8, 8, 97)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).flatten(0, 1)
    mass = q.log_prob(points.unsqueeze(1)).exp().sum(0) * (grid[1] - grid[0]) ** 2
    torch.testing.assert_close(mass, torch.ones(2), atol=1e-6, rtol=0)
    parameters = list(draw.guide.parameters())
    z = q.rsample((3,))
    found = [torch.autograd.grad(q.log_prob(v).sum(), parameters, retain_graph=True) for v in (z, z.clone())]
    assert z.shape == (3, 2, 2)
    torch.testing.assert_close(*found)
    torch.testing.assert_close(q.expand((5, 2)).log_prob(z[:1]), q.log_prob(z[:1]).expand(5, 2))


# Programs and parameters.


def test_pyros_own_svi_learns_every_parameter_and_each_is_shown_once():
    draw, x = _draw((2, 3)), _binary(8, 20)
    before = copy.deepcopy(draw.state_dict())
    svi = SVI(draw.model, draw.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(2):
        svi.step(x)
    assert all(not torch.equal(value, before[name]) for name, value in draw.state_dict().items())
    shown = list(pyro.get_param_store().keys())
    assert len(shown) == len(list(draw.parameters()))
    assert sum("likelihood.network" in name for name in shown) == len(list(draw.guide.decoder.parameters()))
    samples = Predictive(draw.model, guide=draw.guide, num_samples=4)(x)
    assert samples["z"].shape == (4, 8, 6)
    trace = pyro.poutine.trace(pyro.poutine.replay(draw.model, pyro.poutine.trace(draw.guide).get_trace(x)))
    assert {"z", "x"} < set(trace.get_trace(x).nodes)


def test_copies_keep_one_decoder_and_share_nothing_with_the_original():
    draw, x = _draw((2, 3)), _binary(4, 20)
    for other in (copy.deepcopy(draw), pickle.loads(pickle.dumps(draw))):
        assert other.guide.decoder is other.model.likelihood.network
        assert not {id(p) for p in draw.parameters()} & {id(p) for p in other.parameters()}
        values = []
        for one in (draw, other):
            pyro.set_rng_seed(1)
            values.append(Trace_ELBO().loss(one.model, one.guide, x))
        assert values[0] == values[1]
    file = io.BytesIO()
    torch.save(draw.state_dict(), file)
    file.seek(0)
    fresh = _draw((2, 3))
    fresh.load_state_dict(torch.load(file))
    z = torch.randn(4, 6)
    torch.testing.assert_close(fresh.canvases(z), draw.canvases(z))


def test_a_run_taken_up_again_ends_with_the_bits_of_one_that_never_stopped():
    x, checkpoint, start = _binary(40, 20), InMemory(), _draw((2, 3))
    settings = {"batch_size": 20, "seed": 2, "validation": None, "progress": False, "compile": False}
    whole, stopped, again = (copy.deepcopy(start) for _ in range(3))
    pv.fit(whole.model, whole.guide, x, epochs=4, **settings)
    pv.fit(stopped.model, stopped.guide, x, epochs=2, checkpoint=checkpoint, **settings)
    history = pv.fit(again.model, again.guide, x, epochs=4, checkpoint=checkpoint, **settings)
    assert len(history.train_elbo) == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


# What is drawn.


@pytest.mark.parametrize("attention", ATTENTION)
def test_canvases_end_at_the_likelihoods_mean_and_each_adds_one_write(attention):
    draw, z = _draw(attention), torch.randn(4, 6)
    steps = draw.canvases(z)
    assert steps.shape == (3, 4, 20)
    torch.testing.assert_close(steps[-1], draw.model.decode(z).mean)
    hidden = [drawing.hidden for drawing in draw.guide.decoder.steps(z)]
    torch.testing.assert_close(
        steps[1].logit() - steps[0].logit(), draw.guide.decoder.write(hidden[1]), atol=1e-4, rtol=1e-4
    )
    boxes = draw.write_boxes(z), draw.read_boxes(z)
    if attention is None:
        assert boxes == (None, None)
    else:
        assert [b.shape for b in boxes] == [(3, 4, 4)] * 2
        torch.testing.assert_close(boxes[0][2], draw.guide.decoder.write.window(hidden[2]).box)


def test_gaussian_data_take_a_gaussian_likelihood_and_the_identity():
    def gaussian(network):
        return pv.likelihoods.Gaussian(network, scale=0.5)

    draw, x = _draw((2, 3), likelihood=gaussian, link=nn.Identity()), torch.randn(30, 20)
    before = -Trace_ELBO(num_particles=20).loss(draw.model, draw.guide, x) / 30
    pv.fit(draw.model, draw.guide, x, epochs=20, lr=2e-2, validation=None, progress=False, compile=False)
    assert -Trace_ELBO(num_particles=20).loss(draw.model, draw.guide, x) / 30 > before + 5
    z = torch.randn(2, 6)
    torch.testing.assert_close(draw.canvases(z)[-1], draw.model.decode(z).mean)


# Every route.


@pytest.fixture(scope="module")
def plane():
    """DRAW with two latents in all, so that quadrature is the truth, and a trained guide."""
    pyro.set_rng_seed(4)
    draw = pv.systems.DRAW(3, latent_dim=1, num_glimpses=2, hidden=6, attention=(2, 2))
    x = torch.bernoulli(torch.rand(1, 9).expand(64, -1) * torch.tensor([0.3, 1.0]).repeat(32).unsqueeze(-1))
    pv.fit(draw.model, draw.guide, x, epochs=40, lr=2e-2, validation=None, progress=False, compile=False)
    pyro.clear_param_store()
    return draw, x[:3]


def test_evidence_by_importance_and_annealing_is_that_of_quadrature(plane):
    draw, x = plane
    truth = pv.quadrature(draw.model, x).log_evidence
    annealing = {"num_chains": 8, "num_temperatures": 20, "num_steps": 2, "start": draw.guide}
    for method, how in (("importance", {"num_samples": 200}), ("ais", annealing)):
        found = pv.evidence(draw.model, x, draw.guide, method=method, **how)
        assert ((found.log_evidence - truth).abs() < STANDARD_ERRORS * found.standard_error + 1e-3).all()
    elbo = pv.evidence(draw.model, x, draw.guide, method="elbo", num_samples=200)
    assert (elbo.log_evidence < truth + STANDARD_ERRORS * elbo.standard_error).all()


def test_every_measure_takes_it_datum_by_datum(plane):
    draw, x = plane
    truth = pv.quadrature(draw.model, x)
    ledger = pv.gaps(draw.model, x, draw.guide, truth=truth, num_steps=10, num_samples=100)
    assert ledger.approximation.shape == (3,)
    found = pv.verdict(draw.model, x, draw.guide, reference=truth, num_samples=200)
    assert found.gap.shape == (3,)
    draws = pv.mcmc(draw.model, x, kernel=pv.HMC(num_steps=3), num_samples=60, warmup_steps=40, num_chains=2)
    assert ((draws.samples["z"].mean((0, 1)) - truth.mean).abs() < STANDARD_ERRORS * draws.mcse["z"] + 0.05).all()
    table = pv.compare(draw.model, x, {"DRAW": draw.guide, "chains": draws}, truth=truth, num_samples=300)
    assert (table.to_dataframe().loc["DRAW", "kl"] > 0).all()
    assert draw.model.sample(5)["x"].shape == (5, 9)


def test_on_digits_the_elbo_is_below_iwae_and_annealing_brackets_the_evidence():
    x = pv.datasets.digits("train")[:200]
    draw = pv.systems.DRAW(8, latent_dim=2, num_glimpses=2, hidden=16)
    pv.fit(draw.model, draw.guide, x, epochs=10, lr=2e-2, validation=None, progress=False, compile=False)
    x = pv.datasets.digits("test")[:20]
    elbo, iwae = (pv.evidence(draw.model, x, draw.guide, method=m, num_samples=100) for m in ("elbo", "importance"))
    assert float(elbo.log_evidence.mean()) < float(iwae.log_evidence.mean())
    found = pv.bracket(draw.model, x[:4], num_chains=4, num_temperatures=15, num_steps=2, start=draw.guide)
    error = (found.lower_error**2 + found.upper_error**2).sqrt()
    assert (found.lower < found.upper + STANDARD_ERRORS * error + 1e-3).all()


def test_a_drawing_starts_from_the_datas_mean():
    x = torch.bernoulli(torch.rand(1, 20).expand(400, -1))
    draw = _draw((2, 3)).start_from(x)
    canvas = draw.guide.decoder.start(()).canvas
    torch.testing.assert_close(torch.sigmoid(canvas), (x.sum(0) + 0.5) / 401)
    with torch.no_grad():  # nothing is written: the bound is that of independent pixels
        for parameter in draw.guide.decoder.write.patch.parameters():
            parameter.zero_()
    law = dist.Bernoulli(logits=canvas).to_event(1)
    torch.testing.assert_close(draw.model.likelihood(torch.randn(400, 6)).log_prob(x), law.log_prob(x))
    best = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in x.mean(0).clamp(1e-9, 1 - 1e-9).tolist())
    assert 0 < -float(law.log_prob(x).detach().mean()) - best < 20 / 400
    gaussian = _draw(likelihood=lambda n: pv.likelihoods.Gaussian(n, scale=0.5), link=nn.Identity())
    torch.testing.assert_close(gaussian.start_from(3 * x).guide.decoder.first_canvas.detach(), 3 * x.mean(0))


# Bad input.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_glimpses": 0}, "num_glimpses to be at least 1"),
        ({"latent_dim": 0}, "latent_dim to be at least 1"),
        ({"hidden": -1}, "hidden to be at least 1"),
        ({"image_shape": (8, 8, 1)}, "rows and columns"),
        ({"attention": 3}, "filters a side of reading and of writing"),
        ({"attention": (1, 3)}, "attention to be at least 2"),
        ({"attention": (2, 9)}, "at most as many filters as pixels"),
    ],
)
def test_a_size_that_cannot_be_gets_a_sentence(settings, words):
    with pytest.raises(ValueError, match=words):
        pv.systems.DRAW(**{"image_shape": 8, "hidden": 4, **settings})


def test_images_that_do_not_fit_get_a_sentence():
    draw, fit = _draw(), {"epochs": 1, "progress": False}
    with pytest.raises(ValueError, match=r"flat images of 4 x 5, \(N, 20\); got shape \(6, 16\)"):
        draw.guide(_binary(6, 16))
    with pytest.raises(ValueError, match=r"expected data of event shape \(20,\)"):
        pv.fit(draw.model, draw.guide, _binary(6, 16), **fit)
    with pytest.raises(ValueError, match=r"try x.flatten\(1\)"):
        draw.guide(torch.zeros(6, 4, 5))
    for wrong in (3 * _binary(6, 20), torch.rand(6, 20), -_binary(6, 20)):
        with pytest.raises(ValueError, match=r"expected .* got .* try"):
            pv.fit(draw.model, draw.guide, wrong, **fit)
    with pytest.raises(ValueError, match=r"images in \[0, 1\]; got values from 0 to 2"):
        draw.start_from(2 * _binary(6, 20))
    with pytest.raises(ValueError, match=r"link torch\.sigmoid"):
        _draw(link=torch.tanh).start_from(_binary(6, 20))
    with pytest.raises(ValueError, match="latents of all 3 glimpses"):
        draw.canvases(torch.zeros(2, 5))
    for wrong, words in (
        ({"likelihood": nn.Identity}, "a Likelihood second"),
        ({"likelihood": 3}, "likelihood to be a function"),
        ({"link": 3}, "link to be a function"),
    ):
        with pytest.raises(TypeError, match=words):
            pv.systems.DRAW(8, **wrong)
