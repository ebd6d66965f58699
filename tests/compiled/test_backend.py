"""Which way Inductor is called, on the CPU and for tensors on CUDA, and when its results count as the graph's."""

import logging
import os
import subprocess
import sys
import warnings

import pytest
import torch
import torch._inductor.config
import torch._inductor.cpp_builder
from torch._subclasses.fake_tensor import FakeTensorMode

from pyro_vae.inference.compiled import backend


@pytest.fixture
def calls(monkeypatch):
    """The options of each compilation; those with an option in ``fails`` raise."""
    seen, fails = [], set()

    def compile_fx(graph, inputs, config_patches):
        seen.append({key for key, value in config_patches.items() if value})
        if fails & seen[-1]:
            raise RuntimeError("not in C++")
        return graph

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Inductor's own imports warn
        from torch._inductor import compile_fx as inductor
    monkeypatch.setattr(inductor, "compile_fx", compile_fx)
    return seen, fails


def double(tensors):
    return [2 * tensors[0]]


def on_cuda():
    with FakeTensorMode():
        return torch.empty(3, device="cuda")


def test_cuda_runs_through_cuda_graphs(calls):
    backend.compile_run(double, [on_cuda()])
    assert calls[0] == [{"fallback_random", "triton.cudagraphs"}]


def test_cuda_needs_triton_and_the_cpu_does_not(monkeypatch):
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert backend.why_no_compiler([torch.ones(1), on_cuda()]) == "Triton is not installed"
    monkeypatch.setattr(backend, "find_spec", lambda name: object())
    assert backend.why_no_compiler([torch.ones(1), on_cuda()]) is None


def test_the_cpu_is_called_from_python_where_cpp_cannot(calls):
    seen, fails = calls
    fails.add("cpp_wrapper")
    run = backend.compile_run(double, [torch.ones(3)])
    assert seen == [{"fallback_random", "cpp_wrapper"}, {"fallback_random"}]
    assert torch.equal(run([torch.ones(3)])[0], torch.full((3,), 2.0))


@torch._inductor.config.patch({"fx_graph_cache": False, "cpp.vec_isa_ok": True})  # monkeypatch would lose these
def test_inductor_says_nothing_of_lapack(monkeypatch):
    """It would say so before its C++ is compiled, which takes ten seconds: here it is called from Python instead."""
    log = logging.getLogger("torch._inductor.ir")
    heard, refused = [], []

    def refuse(builder):
        refused.append(True)
        raise RuntimeError("no time for C++")

    listener = logging.Handler()
    listener.emit = lambda record: heard.append(record.getMessage())
    log.addHandler(listener)
    monkeypatch.setattr(torch._inductor.cpp_builder.CppBuilder, "build", refuse)
    try:
        lower = torch.eye(2) + torch.ones(2, 2).tril()
        run = backend.compile_run(lambda t: [torch.linalg.solve_triangular(lower, t[0], upper=False)], [torch.eye(2)])
    finally:
        log.removeHandler(listener)
    torch.testing.assert_close(lower @ run([torch.eye(2)])[0], torch.eye(2))
    assert heard == []
    assert refused


def test_an_expanded_input_is_compiled_for_as_it_is():
    """Such as the mean in ``dist.Normal(0.0, 1.0).expand([1, 3])`` of a regression's prior."""
    wide, strided = torch.tensor(2.0).expand(3), torch.arange(6.0)[::2]
    run = backend.compiled(lambda tensors: [tensors[0] * tensors[1]], [wide, strided])
    assert torch.equal(run([wide, strided])[0], 2 * strided)


def test_other_devices_are_not_compiled_for():
    assert "meta" in backend.why_no_compiler([torch.empty(1, device="meta")])


ONE = torch.ones(3)
AGREE = {
    "rounding": ([ONE * (1 + 1e-6)], [ONE], [ONE], True),
    "error": ([ONE * (1 + 1e-3)], [ONE], [ONE], False),
    "small beside the largest": ([ONE, torch.full((1,), 1e-5)], [ONE, torch.zeros(1)], [ONE], True),
    "rounding of float32 in float64": ([ONE.double() * (1 + 1e-6)], [ONE.double()], [ONE], True),
    "the same difference in float64 alone": ([ONE.double() * (1 + 1e-6)], [ONE.double()], [ONE.double()], False),
    "other dtype": ([ONE.double()], [ONE], [ONE], False),
    "other shape": ([torch.ones(4)], [ONE], [ONE], False),
    "other integers": ([torch.tensor([1])], [torch.tensor([2])], [ONE], False),
    "both NaN": ([torch.tensor([float("nan")])], [torch.tensor([float("nan")])], [ONE], True),
    "one NaN": ([torch.tensor([float("nan")])], [torch.ones(1)], [ONE], False),
    "nothing": ([], [], [], True),
}


@pytest.mark.parametrize("name", AGREE)
def test_agree(name):
    found, wanted, inputs, expected = AGREE[name]
    assert backend.agree(found, wanted, inputs) is expected


TRACE_AND_COMPILE = """
import warnings
import pyro, torch, pyro_vae as pv
from pyro_vae.infer import CompiledTrace_ELBO
from pyro_vae.inference.compiled import backend
torch.cpu._is_amx_tile_supported = lambda: False  # Inductor tries these instructions out, whatever it is told
model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 5)))
guide, elbo = pv.guides.DiagonalGaussian(pv.networks.mlp(5, 4)), CompiledTrace_ELBO(backend="eager")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(5):
        elbo.loss(model, guide, torch.ones(3, 5))
    code = backend.compiled(lambda tensors: [tensors[0] @ tensors[0]], [torch.ones(2, 2)])  # no C++ of its own
print(elbo.num_graphs, code([torch.ones(2, 2)])[0].tolist())
print([str(w.message) for w in said if "TORCHINDUCTOR_CACHE_DIR" in str(w.message)])
"""


def test_a_cache_that_cannot_be_made_is_replaced_with_a_word(tmp_path):
    """In a process of its own: the directory is torch's for good once its compiler is imported."""
    (tmp_path / "file").touch()
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "file" / "cache"),
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",  # worth its time for more than one piece of code
        "TORCHINDUCTOR_VEC_ISA_OK": "1",  # not tried out by a compilation
    }
    done = subprocess.run(
        [sys.executable, "-c", TRACE_AND_COMPILE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results, said = done.stdout.splitlines()
    assert results == "1 [[2.0, 2.0], [2.0, 2.0]]"
    assert said.count("cannot be used") == 1


def test_operations_called_one_by_one_have_the_same_bits_and_leave_no_trace():
    """TorchScript's interpreter against the graph in Python: results, what is written in place, and the noise."""
    buffer, x = torch.zeros(3), torch.randn(5, 3)

    def graph(buffer, x):
        buffer.add_(x.mean(0))
        return [(x @ x.T).logsumexp(-1) + buffer.sum(), torch.randn(2)]

    state = torch.get_rng_state()
    code = backend.one_by_one(graph, [buffer, x])
    assert code is not graph
    assert torch.equal(torch.get_rng_state(), state)
    assert not buffer.any()
    for _ in range(4):  # the interpreter optimises after its first runs
        theirs, mine = buffer.clone(), buffer.clone()
        state = torch.get_rng_state()
        wanted = graph(theirs, x)
        torch.set_rng_state(state)
        found = code(mine, x)
        assert all(map(torch.equal, [*found, mine], [*wanted, theirs]))
        buffer.copy_(mine)


def test_what_cannot_be_called_one_by_one_is_left_as_it_is():
    def graph(x):
        return [x.new_zeros(()) if x.tolist() else None]

    assert backend.one_by_one(graph, [torch.zeros(0)]) is graph
