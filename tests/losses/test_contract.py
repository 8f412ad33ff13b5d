"""The contract of a loss, tested for each class that `distillers.losses` exports."""

import copy
import inspect
import re

import pytest
import torch
from torch import Tensor, nn

from distillers.errors import InputError
from distillers.losses import wiring
from tests.losses.cases import CASES, Case, exported, hyperparameters, mapped, tensors

EXPORTED = exported()
COMPILED_FAST = ("kd", "crd")  # the others are compiled by the slow tests


def test_every_loss_has_a_row_and_every_row_a_loss():
    assert sorted(CASES) == sorted(EXPORTED)


@pytest.fixture(params=sorted(EXPORTED))
def cls(request) -> type[nn.Module]:
    return EXPORTED[request.param]


@pytest.fixture
def case(cls) -> Case:
    if cls.__name__.lower() not in CASES:
        pytest.fail(f"{cls.__name__} has no row in tests/losses/cases.py; add one.")
    return CASES[cls.__name__.lower()]


def asking(inputs: dict) -> dict:
    """Return the inputs as leaves that require gradient, including the teacher's."""
    return mapped(inputs, lambda x: x.detach().clone().requires_grad_())


def call(loss: nn.Module, inputs: dict) -> Tensor:
    torch.manual_seed(5)  # for losses that sample
    return loss(**inputs)


def value_and_gradients(loss: nn.Module, inputs: dict) -> tuple[Tensor, dict[str, Tensor | None]]:
    inputs = asking(inputs)
    value = call(loss, inputs)
    value.backward()
    return value.detach(), {name: x.grad for name, x in tensors(inputs, "student").items()}


def assert_finite(loss: nn.Module, inputs: dict) -> None:
    value, gradients = value_and_gradients(loss, inputs)
    assert value.isfinite()
    for name, gradient in gradients.items():
        assert gradient is None or gradient.isfinite().all(), name
    for name, parameter in loss.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


# ---- the signature ------------------------------------------------------------------------------


def test_names_are_in_the_tables(cls):
    assert wiring.forward_inputs(cls.forward)
    wiring.constructor_facts(cls)


def test_student_first_teacher_second_labels_third(cls):
    order = {"student": 0, "teacher": 1}
    places = [order.get(name.split("_")[0], 2) for name in wiring.forward_inputs(cls.forward)]
    assert places == sorted(places)
    assert places[0] == 0
    facts = wiring.constructor_facts(cls)
    for name in facts:
        twin = name.replace("teacher", "student")
        assert twin not in facts or facts.index(twin) <= facts.index(name)


def test_facts_are_required_and_options_keyword_only_with_a_default(cls):
    for parameter in hyperparameters(cls):
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            assert parameter.default is not inspect.Parameter.empty, parameter.name
        else:
            assert parameter.default is inspect.Parameter.empty, parameter.name


def test_every_function_is_typed(cls):
    for function in (cls.__init__, cls.forward):
        if function is nn.Module.__init__:
            continue
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty
        for name, parameter in signature.parameters.items():
            assert name == "self" or parameter.annotation is not inspect.Parameter.empty, name


def test_documented_with_its_paper_and_every_argument(cls):
    card = inspect.getdoc(cls) or ""
    assert re.search(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", card) or "https://doi.org/" in card
    for parameter in hyperparameters(cls):
        assert re.search(rf"^    {parameter.name}: \S", card, re.MULTILINE), parameter.name
    assert cls.forward.__doc__


def test_options_out_of_range_are_refused_by_name(cls, case):
    for name, default in wiring.options(cls).items():
        if type(default) not in (int, float):
            continue
        wrong = [] if name in case.signed else [type(default)(-1)]
        wrong += [float("nan"), float("inf")] if type(default) is float else []
        for value in wrong:
            with pytest.raises(InputError, match=f"{name} is {value}"):
                wiring.build(cls, case.facts(), {name: value})


# ---- value and gradients ------------------------------------------------------------------------


def test_gives_a_finite_scalar(cls, case):
    value = call(case.build(cls), case.inputs(cls))
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value.isfinite()


def test_all_of_the_student_learns_and_nothing_of_the_teacher(cls, case):
    loss, inputs = case.build(cls), asking(case.inputs(cls))
    call(loss, inputs).backward()
    for name, tensor in tensors(inputs, "student").items():
        if name not in case.unread:
            assert tensor.grad is not None, name
            assert tensor.grad.count_nonzero(), name
    for name, tensor in tensors(inputs, "teacher").items():
        assert tensor.grad is None, name


def test_every_parameter_learns_or_is_frozen(cls, case):
    loss = case.build(cls)
    call(loss, asking(case.inputs(cls))).backward()
    if hasattr(loss, "warmup"):
        loss.warmup(**asking(case.inputs(cls, function=loss.warmup))).backward()
    for name, parameter in loss.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if not parameter.requires_grad:
            assert name.split(".")[-2] in (cls.__doc__ or ""), f"{name} is frozen: say so"


def test_gradient_is_that_of_the_value(cls, case):
    if case.holds_gradient_back:
        pytest.skip("part of the value is a constant to the gradient")
    loss = case.build(cls).double()
    inputs = mapped(case.inputs(cls), lambda x: x.double())
    inputs = {
        name: mapped({name: value}, lambda x: x.clone().requires_grad_())[name]
        if name.startswith("student")
        else value
        for name, value in inputs.items()
    }
    call(loss, inputs)  # constants that the first step estimates are fixed from here on
    learned = {name: p for name, p in loss.named_parameters() if p.requires_grad}
    reached = [x for name, x in tensors(inputs, "student").items() if name not in case.unread]
    leaves = [*reached, *(p.detach().clone().requires_grad_() for p in learned.values())]

    def value(*given: Tensor) -> Tensor:
        # gradcheck perturbs the inputs in place; the state is reset
        parameters = dict(zip(learned, given[len(reached) :], strict=True))
        torch.manual_seed(5)
        return torch.func.functional_call(copy.deepcopy(loss), parameters, kwargs=read(given))

    def read(given: tuple[Tensor, ...]) -> dict:
        replaced = dict(zip(map(id, reached), given[: len(reached)], strict=True))
        return {
            name: [replaced.get(id(x), x) for x in each]
            if isinstance(each, list)
            else replaced.get(id(each), each)
            for name, each in inputs.items()
        }

    size = sum(g.square().sum() for g in torch.autograd.grad(value(*leaves), leaves)).sqrt().item()
    assert size > 0
    checked = torch.autograd.gradcheck
    assert checked(lambda *given: value(*given) / size, leaves, fast_mode=True, atol=1e-4)


def test_inputs_are_left_alone(cls, case):
    inputs = case.inputs(cls)
    before = copy.deepcopy(inputs)
    call(case.build(cls), inputs)
    for who in ("student", "teacher"):
        for name, tensor in tensors(inputs, who).items():
            assert torch.equal(tensor, tensors(before, who)[name]), name


# ---- precision and layout -----------------------------------------------------------------------


def test_bfloat16_autocast_is_near_float32(cls, case):
    rounded = mapped(case.inputs(cls), lambda x: x.bfloat16())
    expected = call(case.build(cls), mapped(rounded, lambda x: x.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = call(case.build(cls), rounded)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=case.tolerance, atol=case.tolerance / 10)


def test_float64_stays_float64(cls, case):
    value = call(case.build(cls).double(), mapped(case.inputs(cls), lambda x: x.double()))
    assert value.dtype == torch.float64


def test_layout_in_memory_does_not_matter(cls, case):
    def scattered(x: Tensor) -> Tensor:
        if x.ndim == 4:
            return x.contiguous(memory_format=torch.channels_last)
        return torch.stack((x, x), dim=-1)[..., 0]

    inputs = case.inputs(cls)
    expected, gradients = value_and_gradients(case.build(cls), inputs)
    value = call(case.build(cls), mapped(inputs, scattered))
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    leaves = mapped(inputs, lambda x: x.requires_grad_())
    call(case.build(cls), mapped(leaves, scattered)).backward()
    for name, tensor in tensors(leaves, "student").items():
        if gradients[name] is not None:
            torch.testing.assert_close(tensor.grad, gradients[name], rtol=1e-3, atol=1e-4)


# ---- hard inputs --------------------------------------------------------------------------------


def test_a_batch_of_one_is_finite_or_refused(cls, case):
    loss = case.build(cls)
    if case.refuses_one:
        with pytest.raises(ValueError, match=r"\d"):
            call(loss, case.inputs(cls, batch=1))
    else:
        assert_finite(loss, case.inputs(cls, batch=1))


@pytest.mark.parametrize("content", [0.0, 1.0])
def test_constant_features_are_finite(cls, case, content):
    assert_finite(case.build(cls), mapped(case.inputs(cls), lambda x: torch.full_like(x, content)))


def test_a_student_equal_to_its_teacher_is_finite(cls, case):
    same = Case(
        case.options,
        batch=case.batch,
        student=case.student,
        teacher=case.student,
        stem=case.stem,
        refuses_one=case.refuses_one,
    )
    inputs = same.inputs(cls)
    for name in list(inputs):
        twin = name.replace("teacher", "student", 1)
        if name.startswith("teacher") and twin in inputs:
            inputs[name] = inputs[twin]
    assert_finite(same.build(cls), inputs)


def test_half_precision_near_its_limit_is_finite(cls, case):
    large = mapped(case.inputs(cls), lambda x: (x / x.abs().max() * case.largest).half())
    with torch.autocast("cpu", dtype=torch.float16):
        value = call(case.build(cls), large)
    assert value.isfinite()


# ---- state --------------------------------------------------------------------------------------


def test_resumes_exactly_from_its_state_dict(cls, case):
    loss = case.build(cls)
    for seed in (3, 4):
        call(loss, case.inputs(cls, seed=seed))
    resumed = case.build(cls)
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    following = case.inputs(cls, seed=6)
    assert torch.equal(call(loss, following), call(resumed, following))


def test_can_be_copied_after_a_step(cls, case):
    loss = case.build(cls)
    call(loss, asking(case.inputs(cls))).backward()
    twin = copy.deepcopy(loss)
    following = case.inputs(cls, seed=6)
    assert torch.equal(call(loss, following), call(twin, following))


def test_same_seed_same_value(cls, case):
    first, second = (call(case.build(cls), case.inputs(cls)) for _ in range(2))
    assert torch.equal(first, second)


def test_evaluation_mode_gives_a_finite_value_and_keeps_the_state(cls, case):
    loss = case.build(cls).eval()
    before = copy.deepcopy(loss.state_dict())
    assert call(loss, case.inputs(cls)).isfinite()
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name]), name


# ---- device and compiler ------------------------------------------------------------------------


def check_compiled(cls: type[nn.Module], case: Case) -> None:
    torch.compiler.reset()
    inputs = case.inputs(cls)
    expected, gradients = value_and_gradients(case.build(cls), inputs)
    compiled = torch.compile(case.build(cls), fullgraph=True, backend="aot_eager")
    value, found = value_and_gradients(compiled, inputs)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in COMPILED_FAST if name in EXPORTED])
def test_compiles_without_a_break(name):
    check_compiled(EXPORTED[name], CASES[name])


@pytest.mark.slow
def test_every_loss_compiles_without_a_break(cls, case):
    check_compiled(cls, case)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_agrees_and_never_waits(cls, case):
    expected = call(case.build(cls), case.inputs(cls))
    loss = case.build(cls).cuda()
    inputs = {
        name: [x.cuda() for x in value]
        if isinstance(value, list)
        else (value.cuda() if isinstance(value, Tensor) else value)
        for name, value in case.inputs(cls).items()
    }
    torch.cuda.set_sync_debug_mode("default" if case.waits else "error")
    try:
        value = call(loss, inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(value.cpu(), expected, rtol=1e-3, atol=1e-4)
