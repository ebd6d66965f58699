"""Each kind of exercise: what is right passes, what is wrong is told so in a sentence, and nothing raises."""

import math

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.course import Result, check, exercises
from pyro_vae.course.choices import Choice
from pyro_vae.course.draws import Sample
from pyro_vae.course.exercise import Mistake
from pyro_vae.course.functions import Function
from pyro_vae.course.reading import as_tensor, close
from pyro_vae.course.values import Value

GAUSSIAN = torch.distributions.Normal(0.5, 2.0)
POINTS = [(torch.tensor(z),) for z in (-1.0, 0.3, 2.0)]


class Hostile:
    """It raises whatever is done with it."""

    def __getattr__(self, name):
        raise RuntimeError("no")

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no")

    def __float__(self):
        raise RuntimeError("no")


def raises(*args):
    raise KeyError("nothing here")


GARBAGE = [
    *(None, ..., "x", b"x", True, 1j, {}, [], (), set(), object(), Hostile(), float("nan"), float("inf"), 10**400),
    *(torch.zeros(0), torch.zeros(2, 3, 4), torch.tensor(1j), torch.tensor(True), torch.zeros(3, device="meta")),
    *([1, None], [[1], [2, 3]], [torch.zeros(2), torch.zeros(3)], np.array(["x"]), np.array([None]), {"a": 1}),
    *(raises, lambda: 0, lambda *a: None, lambda *a: "x", lambda *a: torch.zeros(7, 7), lambda *a: math.nan, print),
]
KINDS = {
    "value": Value("0.1", "?", lambda: 0.7),
    "tensor": Value("0.1", "?", lambda: torch.tensor([0.7, 0.3, 4.1])),
    "function": Function("0.1", "?", GAUSSIAN.log_prob, POINTS),
    "choice": Choice("0.1", "?", {"a": "No.", "b": "Yes."}, right={"b"}),
    "draws": Sample("0.1", "?", lambda: (0.5, 2.0)),
    "draws of two": Sample("0.1", "?", lambda: ((0.5, 0.1), (2.0, 1.0))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", range(len(GARBAGE)))
def test_garbage_gets_a_sentence(kind, answer):
    finding = KINDS[kind].examine(GARBAGE[answer])
    assert not finding.right
    assert finding.message[0].isupper()
    assert finding.message[-1] in ".?)" or "It raised" in finding.message
    assert "0.7" not in finding.message


# -- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [1.5, np.float32(1.5), np.array(1.5), torch.tensor(1.5, requires_grad=True)])
def test_a_number_is_read_whatever_holds_it(answer):
    found = as_tensor(answer)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    assert found.item() == 1.5


def test_lists_of_tensors_are_stacked():
    nested = [[torch.tensor(1.0), 2], [3.0, torch.tensor(4)]]
    assert as_tensor(nested).tolist() == [[1, 2], [3, 4]]


def test_close_knows_infinities():
    infinite, finite = torch.tensor([-math.inf]), torch.tensor([3.0])
    assert close(infinite, infinite, 1e-6, 1e-3)
    assert not close(finite, infinite, 1e-6, 1e-3)
    assert not close(infinite, finite, 1e-6, 1e-3)


# -- numbers -----------------------------------------------------------------------------------------------------

NUMBER = Value("0.1", "?", lambda: 0.7, (Mistake(lambda: 1.7, "One was added."),), praise="Well done.")


@pytest.mark.parametrize("answer", [0.7, 0.7004, [0.7], torch.tensor([[0.7]])])
def test_a_right_number(answer):
    assert NUMBER.examine(answer).right
    assert NUMBER.examine(answer).message == "Well done."


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (1.7, "One was added."),
        (-0.7, "sign"),
        (0.49, "square of"),
        (0.7**0.5, "square root"),
        (math.log(0.7), "is the logarithm"),
        (-math.log(0.7), "minus the logarithm"),
        (math.exp(0.7), "natural scale"),
        (1 / 0.7, "one over"),
        (1.4, "twice"),
        (0.35, "half"),
        (0.7 / math.log(2), "bits"),
        (0.7 / math.log(10), "base ten"),
        (0.702, "nearly right"),
        (0.9, "too large"),
        (0.1, "too small"),
        ([0.7, 0.7], "got a tensor of shape (2,)"),
    ],
)
def test_a_wrong_number_is_told_what_was_done_to_it(answer, sentence):
    assert sentence in NUMBER.examine(answer).message


@pytest.mark.parametrize("given", [[3.25, 0.9], [3.24, 0.9], [3.26, 0.904]])
def test_numbers_that_are_rounded_are_not_off_by_a_factor(given):
    exercise = Value("0.1", "?", lambda: (3.25, 0.90139))
    assert "nearly right" in exercise.examine(given).message
    assert "same factor" in exercise.examine([1.1 * 3.25, 1.1 * 0.90139]).message


def test_the_courses_own_numbers_rounded():
    assert "nearly right" in check("3.1", [3.25, 0.9]).message
    assert "nearly right" in check("6.2", [0.75, 0.53]).message


def test_where_several_mistakes_explain_a_number_none_is_named():
    assert Value("0.1", "?", lambda: 2.0).examine(4.0).message == "It is too large."  # the double, and the square


MATRIX = torch.tensor([[1.3, 0.4], [2.1, 0.7]])


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (-MATRIX, "sign"),
        (MATRIX.mT, "transposed"),
        (MATRIX.flip(-1), "reversed"),
        (MATRIX - 0.9, "same number everywhere"),
        (MATRIX * 1.7, "same factor everywhere"),
        (MATRIX**2, "square of"),
        (MATRIX + torch.tensor([[0.0, 0.3], [0.0, 0.0]]), "1 of 4 numbers are off"),
        (MATRIX[0], "Expected a tensor of shape (2, 2)"),
        (MATRIX / torch.tensor([[1.0, 0.0], [1.0, 1.0]]), "are off"),
    ],
)
def test_a_wrong_tensor_is_told_what_was_done_to_it(answer, sentence):
    assert sentence in Value("0.1", "?", lambda: MATRIX).examine(answer).message


def test_a_right_tensor():
    exercise = Value("0.1", "?", lambda: MATRIX)
    assert exercise.examine(MATRIX.tolist()).right
    assert exercise.examine(MATRIX.numpy()).right
    assert exercise.examine(MATRIX.unsqueeze(0)).right


# -- functions ---------------------------------------------------------------------------------------------------

DENSITY = Function("0.1", "?", GAUSSIAN.log_prob, POINTS, (Mistake(lambda z: z**3, "This is a cube."),))


def test_a_right_function():
    by_hand = lambda z: -0.5 * ((z - 0.5) / 2) ** 2 - math.log(2 * math.sqrt(2 * math.pi))  # noqa: E731
    assert DENSITY.examine(by_hand).right
    assert DENSITY.examine(lambda z: by_hand(z).item()).right
    assert DENSITY.examine(lambda z: by_hand(z).reshape(1, 1)).right


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda z: z**3, "This is a cube."),
        (lambda z: -0.5 * ((z - 0.5) / 2) ** 2, "same number everywhere"),
        (lambda z: -GAUSSIAN.log_prob(z), "sign"),
        (lambda z: 3 * GAUSSIAN.log_prob(z), "same factor"),
        (lambda z: GAUSSIAN.log_prob(z).exp(), "natural scale"),
        (lambda z: GAUSSIAN.log_prob(z) * (z > 0), "1 of 3 numbers"),
        (lambda z: -math.inf, "infinite"),
        (lambda z: math.nan, "NaN"),
        (lambda: 0.0, "It raised TypeError"),
        (raises, "It raised KeyError: 'nothing here'"),
        (lambda z: None, "Is there a return?"),
        (lambda z: ..., "still a ..."),
        (lambda z: (..., z), "still a ..."),
        (lambda z: z.expand(2), "shape (2,)"),
        (GAUSSIAN.log_prob(torch.tensor(1.0)), "without ()"),
    ],
)
def test_a_wrong_function_is_told_where(answer, sentence):
    assert sentence in DENSITY.examine(answer).message


def test_a_function_with_noise_in_it_is_nearly_right():
    noisy = lambda z: GAUSSIAN.log_prob(z) + 0.01 * torch.randn(())  # noqa: E731
    assert "nearly right everywhere" in DENSITY.examine(noisy).message
    assert "round less" in DENSITY.examine(lambda z: 1.0003 * GAUSSIAN.log_prob(z)).message


def test_the_elbo_by_monte_carlo_is_nearly_right():
    def elbo(mu, sigma):
        z = mu + sigma * torch.randn(100_000)
        normal = torch.distributions.Normal
        log_joint = normal(0.0, 1.0).log_prob(z) + normal(z, 0.5).log_prob(torch.tensor(2.0))
        return (log_joint - normal(mu, sigma).log_prob(z)).mean()

    assert "nearly right" in check("7.1", elbo).message


def test_a_function_that_changes_its_argument_deceives_nobody():
    def doubled(z):
        return z.mul_(2)

    exercise = Function("0.1", "?", lambda z: z, POINTS, (Mistake(lambda z: 2 * z, "Doubled."),))
    assert exercise.examine(doubled).message == "Doubled."
    assert exercise.examine(lambda z: z).right
    assert POINTS[0][0] == -1


def test_a_function_of_several_numbers():
    exercise = Function("0.1", "?", lambda q, p: (q + p, p), [(torch.ones(2), torch.zeros(2))])
    assert exercise.examine(lambda q, p: [q + p, p]).right
    assert "are off" in exercise.examine(lambda q, p: (q - 1, q)).message


def test_a_density_that_is_minus_infinity_where_it_must_be():
    exercise = Function("0.1", "?", lambda z: torch.log(z.clamp(min=0)), POINTS)
    assert exercise.examine(lambda z: math.log(z) if z > 0 else -math.inf).right
    assert not exercise.examine(lambda z: math.log(z) if z > 0 else -100.0).right


# -- choices -----------------------------------------------------------------------------------------------------

CHOICE = Choice("0.1", "?", {"a": "No, not a.", "b": "It is b.", "c": "It is c."}, right=frozenset({"b", "c"}))


@pytest.mark.parametrize(
    "answer",
    [
        *({"b", "c"}, ["C", " b "], ("c", "b", "b"), "bc", "b, c", "{c; B}", "'b', 'c'", ["bc"]),
        *(np.array(["b", "c"]), np.array("cb"), {np.str_("b"), np.str_("c")}),
    ],
)
def test_a_right_choice(answer):
    assert CHOICE.examine(answer).right
    assert CHOICE.examine(answer).message == "It is b. It is c."


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [("b", "there is more"), ("a", "No, not a."), ({"a", "b"}, "No, not a."), ("d", "got 'd'"), ([], "got none")],
)
def test_a_wrong_choice(answer, sentence):
    assert sentence in CHOICE.examine(answer).message


def test_who_hands_in_everything_is_not_told_letter_by_letter():
    assert CHOICE.examine("abc").message == "1 of the 3 that you chose is not right."
    exercise = Choice("0.1", "?", {"a": "Not a.", "b": "It is b.", "c": "Not c.", "d": "It is d."}, right={"b", "d"})
    assert exercise.examine("abcd").message == "2 of the 4 that you chose are not right."
    assert exercise.examine("ac").message == "2 of the 2 that you chose are not right."
    assert exercise.examine("abd").message == "Not a."


@pytest.mark.parametrize("answer", [np.array([1, 2]), {"a", 1}, 3])
def test_what_is_no_letter(answer):
    assert "Expected 'a' or 'b' or 'c'" in CHOICE.examine(answer).message


# -- draws -------------------------------------------------------------------------------------------------------

TWO = Sample(
    "0.1",
    "?",
    lambda: ((1.0, -2.0), (0.5, 3.0)),
    (Mistake(lambda: ((0.0, 0.0), (0.5, 3.0)), "The mean was forgotten."),),
)
MEAN, STD = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])


def autoregressive(shape, rho=0.9):
    """Chains of N(0, 1) that remember: ESS is (1 - rho) / (1 + rho) of the draws."""
    z = [torch.randn(shape[0], *shape[2:])]
    for _ in range(shape[1] - 1):
        z.append(rho * z[-1] + math.sqrt(1 - rho**2) * torch.randn_like(z[-1]))
    return torch.stack(z, 1)


@pytest.mark.parametrize("seed", range(5))
def test_right_draws(seed):
    torch.manual_seed(seed)
    assert TWO.examine(MEAN + STD * torch.randn(2000, 2)).right
    assert TWO.examine((MEAN + STD * torch.randn(2000, 2)).tolist()).right
    assert TWO.examine(MEAN + STD * autoregressive((4, 2000, 2))).right
    samples = (MEAN + STD * autoregressive((4, 2000, 2))).unsqueeze(2)
    assert TWO.examine(pv.Draws({"z": samples}, acceptance=torch.ones(4, 1), plate="data")).right


@pytest.mark.parametrize(
    ("draws", "sentence"),
    [
        (lambda: STD * torch.randn(2000, 2), "The mean was forgotten."),
        (lambda: MEAN + 0.3 + STD * torch.randn(4, 2000, 2), "The mean of the draws"),
        (lambda: MEAN + 1.2 * STD * torch.randn(2000, 2), "too widely"),
        (lambda: MEAN + STD * torch.randn(2000, 2) / 2, "not spread widely enough"),
        (lambda: MEAN + STD * torch.randn(50, 2), "worth"),
        (lambda: torch.randn(1, 400, 2).cumsum(1), "first draws are elsewhere"),
        (lambda: MEAN + STD * torch.randn(4, 500, 2) + torch.arange(4.0)[:, None, None], "do not agree"),
        (lambda: MEAN.expand(2000, 2), "never moves"),
        (lambda: torch.full((2000, 2), math.inf), "finite"),
        (lambda: torch.randn(2, 2000), "Expected draws of shape (S, 2) or (C, S, 2)"),
    ],
)
def test_wrong_draws_are_told_how(draws, sentence):
    assert sentence in TWO.examine(draws()).message


def test_warm_up_that_was_kept_is_named():
    chain = torch.randn(4, 1000, 1)
    chain[:, :200] += 30 * torch.linspace(1, 0, 200)[:, None]
    exercise = Sample("0.1", "?", lambda: (0.0, 1.0))
    assert "warm-up" in exercise.examine(chain).message
    assert exercise.examine(chain[:, 200:]).right


def test_draws_that_are_all_over_the_place_do_not_excuse_themselves():
    exercise = Sample("0.1", "?", lambda: (0.0, 1.0))
    assert not exercise.examine(torch.distributions.StudentT(1.5).sample((4, 2000))).right
    assert not exercise.examine(50 * torch.randn(4, 2000) + 3).right


@pytest.mark.parametrize("seed", range(5))
def test_right_draws_of_a_skewed_target(seed):
    torch.manual_seed(seed)
    exercise = Sample("0.1", "?", lambda: (1.0, 1.0))
    assert exercise.examine(torch.distributions.Exponential(1.0).sample((4, 1000))).right


def test_chains_of_one_number_may_stand_in_rows():
    exercise = Sample("0.1", "?", lambda: (0.0, 1.0))
    for shape in ((1000,), (1000, 1), (4, 1000), (4, 1000, 1)):
        assert exercise.examine(torch.randn(shape)).right


# -- check and exercises -----------------------------------------------------------------------------------------


def test_a_result_is_true_or_false_and_reads_as_a_sentence():
    assert repr(Result("3.2", True, "Since the sun shines.")) == "3.2: right. Since the sun shines."
    assert repr(Result("3.2", True, "")) == "3.2: right."
    assert repr(Result("3.2", False, "It rains.")) == "3.2: not yet. It rains."
    assert Result("3.2", True, "")
    assert not Result("3.2", False, "")


@pytest.mark.parametrize("answer", [None, ...])
def test_no_answer_yet(answer):
    assert repr(check("1.1", answer)) == "1.1: not yet. There is no answer yet."


@pytest.mark.parametrize("number", ["13.1", "x", "", None, "0.1", -1])
def test_an_unknown_lesson_is_refused(number):
    with pytest.raises(ValueError, match="with a lesson from 1 to 12; got"):
        check(number, 1.0)


@pytest.mark.parametrize("number", ["2.99", "2", 2, 2.05, "2."])
def test_an_unknown_exercise_is_refused_with_those_of_its_lesson(number):
    with pytest.raises(ValueError, match=r"an exercise of lesson 2, 2\.1, 2\.2, 2\.3; got .* try check\(\"2\.1"):
        check(number, 1.0)


def test_exercises_by_lesson():
    assert set(exercises(1)) <= set(exercises())
    with pytest.raises(ValueError, match="a lesson from 1 to 12"):
        exercises(13)


@pytest.mark.parametrize("kind", [Value, Function, Sample])
def test_a_truth_that_is_none_is_the_authors_fault(kind):
    extra = {"points": POINTS} if kind is Function else {}
    exercise = kind("0.1", "?", (lambda *a: "x") if kind is not Sample else (lambda: ("x", 1.0)), **extra)
    answer = {Value: 1.0, Function: lambda z: z, Sample: torch.randn(100)}[kind]
    with pytest.raises(TypeError, match=r"0\.1"):
        exercise.examine(answer)
