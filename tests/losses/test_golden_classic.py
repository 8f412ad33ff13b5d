"""The classic losses against numbers from their public implementations."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distillers.losses.ab import AB
from distillers.losses.cc import CC
from distillers.losses.dkd import DKD
from distillers.losses.ega import EGA
from distillers.losses.ft import FT
from distillers.losses.itrd import ITRD
from distillers.losses.nst import NST
from distillers.losses.pkt import PKT
from distillers.losses.rkd import RKD
from distillers.losses.wsld import WSLD
from tests.golden.fill import draw, fill_by_shape

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses_classic.json").read_text())
CASE, CONFIG = GOLDEN["case"], GOLDEN["config"]
BATCH, CLASSES = CONFIG["batch"], CONFIG["classes"]
STUDENT = [channels for channels, _ in CONFIG["student"][1:]]
TEACHER = [channels for channels, _ in CONFIG["teacher"][1:]]


class Inputs:
    """Return the input of the reference; the student's tensors require gradient."""

    def __init__(self) -> None:
        self.student_maps = [t.requires_grad_() for t in maps("student")]
        self.teacher_maps = maps("teacher")
        self.teacher_preacts = [
            draw(f"{CASE}/teacher/preact/{i}", BATCH, c, side, side).double()
            for i, (c, side) in enumerate(CONFIG["teacher"][1:])
        ]
        self.student_pooled = pooled("student").requires_grad_()
        self.teacher_pooled = pooled("teacher")
        self.student_logits = (2 * draw(f"{CASE}/student/logits", BATCH, CLASSES)).double()
        self.student_logits.requires_grad_()
        self.teacher_logits = (3 * draw(f"{CASE}/teacher/logits", BATCH, CLASSES)).double()
        self.labels = torch.arange(BATCH) * 3 % CLASSES


def maps(who: str) -> list[Tensor]:
    """Return the stage maps, without the stem."""
    return [
        draw(f"{CASE}/{who}/{i}", BATCH, c, side, side).double().relu()
        for i, (c, side) in enumerate(CONFIG[who])
        if i > 0
    ]


def pooled(who: str) -> Tensor:
    return draw(f"{CASE}/{who}/embedding", BATCH, CONFIG[who][-1][0]).double().abs()


def filled(loss: torch.nn.Module) -> torch.nn.Module:
    fill_by_shape(loss)
    return loss.double()


def rkd(x: Inputs):
    return (loss := RKD()), loss(x.student_pooled, x.teacher_pooled)


def pkt(x: Inputs):
    return (loss := PKT()), loss(x.student_pooled, x.teacher_pooled)


def nst(x: Inputs):
    return (loss := NST()), loss(x.student_maps, x.teacher_maps)


def cc(x: Inputs):
    # the reference normalized the embeddings, which the published runs did not
    loss = filled(CC(32, 40, dim=CONFIG["feat_dim"], normalise=True))
    return loss, loss(x.student_pooled, x.teacher_pooled)


def ab(x: Inputs):
    loss = filled(AB(STUDENT, TEACHER))
    return loss, loss(x.student_maps, x.teacher_preacts)


def ft(x: Inputs):
    loss = filled(FT(STUDENT, TEACHER))
    return loss.translator, loss(x.student_maps, x.teacher_maps)


def dkd(x: Inputs):
    return (loss := DKD()), loss(x.student_logits, x.teacher_logits, x.labels, 1.0)


def ega(x: Inputs):
    # the reference needs equal widths: it used the first 32 features of the teacher
    loss = EGA(32, 32)
    return loss, loss(x.student_pooled, x.teacher_pooled[:, :32])


def itrd(x: Inputs):
    # the reference omits the two factors
    loss = filled(ITRD(32, 40, correlation=1.0, mutual=1.0, alpha=1.5))
    return loss, loss(x.student_pooled, x.teacher_pooled)


def wsld(x: Inputs):
    # the reference adds the cross-entropy
    loss = WSLD(temperature=2.0)
    soft = loss(x.student_logits, x.teacher_logits, x.labels)
    return loss, F.cross_entropy(x.student_logits, x.labels) + 2.5 * soft


METHODS = (rkd, pkt, nst, cc, ab, ft, dkd, ega, itrd, wsld)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_value_and_gradients_are_those_of_the_public_code(method):
    torch.manual_seed(0)
    expected, inputs = GOLDEN["results"][method.__name__], Inputs()
    learned, value = method(inputs)
    assert value.item() == pytest.approx(expected["loss"], rel=1e-6)

    value.backward()
    named = {"embedding": inputs.student_pooled, "logits": inputs.student_logits}
    named |= {f"feature{i}": t for i, t in enumerate(inputs.student_maps, start=1)}
    assert {name for name, t in named.items() if t.grad is not None} == set(expected["grad"])
    for name, numbers in expected["grad"].items():
        grad = named[name].grad
        norm = grad.norm().item()
        assert norm == pytest.approx(numbers["norm"], rel=1e-6)
        first = grad.flatten()[:6].tolist()
        assert first == pytest.approx(numbers["first"], rel=1e-6, abs=1e-9 * norm)

    found = [(p.squeeze().shape, p.grad.norm().item()) for p in learned.parameters()]
    wanted = [
        (torch.empty(shape).squeeze().shape, norm) for _, shape, norm in expected["parameters"]
    ]
    assert [shape for shape, _ in found] == [shape for shape, _ in wanted]
    norms = [norm for _, norm in wanted]
    assert [norm for _, norm in found] == pytest.approx(norms, rel=1e-6, abs=1e-13)


def test_every_golden_method_is_compared():
    assert {method.__name__ for method in METHODS} == set(GOLDEN["results"])
