"""The documented methods against numbers from their public implementations.

Numbers of RRD's momentum memory are omitted: its public code takes the exponential of its scores
twice and compares the teacher with the student's bank. `test_rrd.py` derives the correct values.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.features.taps import Taps
from distillers.losses import AT, CRD, DCD, KD, RRD, SP, SRRL, VID, FitNet, SemCKD, SimKD
from tests.golden.fill import draw, fill_by_shape

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
CASE, CONFIG, RESULTS = GOLDEN["case"], GOLDEN["config"], GOLDEN["results"]
BATCH, CLASSES, DIM = CONFIG["batch"], CONFIG["classes"], CONFIG["feat_dim"]
NUM_TRAIN, NEGATIVES = CONFIG["n_data"], CONFIG["nce_k"]
TRAIN_LABELS = torch.arange(NUM_TRAIN) % CLASSES
DIMS = CONFIG["student"][-1][0], CONFIG["teacher"][-1][0]
CHANNELS = tuple([c for c, _ in CONFIG[who][1:]] for who in ("student", "teacher"))
SIZES = tuple([(side, side) for _, side in CONFIG[who][1:]] for who in ("student", "teacher"))


def inputs() -> SimpleNamespace:
    """Return the input of the reference; the student's tensors require gradient."""
    x = SimpleNamespace()
    for who, factor in (("student", 2), ("teacher", 3)):
        maps = [
            draw(f"{CASE}/{who}/{i}", BATCH, channels, side, side).double().relu()
            for i, (channels, side) in enumerate(CONFIG[who])
        ]
        last = CONFIG[who][-1][0]
        pooled = draw(f"{CASE}/{who}/embedding", BATCH, last).double().abs()
        logits = (factor * draw(f"{CASE}/{who}/logits", BATCH, CLASSES)).double()
        setattr(x, f"{who}_maps", maps[1:])
        setattr(x, f"{who}_pooled", pooled)
        setattr(x, f"{who}_logits", logits)
    x.teacher_final = x.teacher_maps[-1]
    x.labels = torch.arange(BATCH) * 3 % CLASSES
    x.index = (torch.arange(BATCH) * 5 + 2) % NUM_TRAIN
    for tensor in (*x.student_maps, x.student_pooled, x.student_logits):
        tensor.requires_grad_()
    return x


def head() -> nn.Linear:
    linear = nn.Linear(DIMS[1], CLASSES)
    with torch.no_grad():
        linear.weight.copy_(0.2 * draw(f"{CASE}/classifier/weight", CLASSES, DIMS[1]))
        linear.bias.copy_(0.1 * draw(f"{CASE}/classifier/bias", CLASSES))
    return linear.requires_grad_(False)


def filled(loss: nn.Module) -> nn.Module:
    fill_by_shape(loss)
    return loss.double()


def rows(name: str, count: int) -> Tensor:
    return F.normalize(draw(f"{CASE}/{name}", count, DIM), dim=1)


def kd():
    return KD(), ("student_logits", "teacher_logits")


def fitnet():
    return filled(FitNet(*CHANNELS, *SIZES)), ("student_maps", "teacher_maps")


def at():
    return AT(), ("student_maps", "teacher_maps")


def sp():
    return SP(), ("student_maps", "teacher_maps")


def vid():
    return filled(VID(*CHANNELS)), ("student_maps", "teacher_maps")


def srrl():
    loss = filled(SRRL(*DIMS, head()))
    loss.teacher_head.load_state_dict(head().state_dict())
    return loss, ("student_pooled", "teacher_pooled", "teacher_logits")


def semckd():
    return filled(SemCKD(*CHANNELS, BATCH)), ("student_maps", "teacher_maps")


def simkd():
    loss = filled(SimKD(CHANNELS[0], DIMS[1], head()))
    loss.teacher_head.load_state_dict(head().state_dict())
    return loss, ("student_maps", "teacher_final")


def dcd():
    return filled(DCD(*DIMS, dim=DIM)), ("student_pooled", "teacher_pooled")


def rrd():
    loss = RRD(*DIMS, dim=DIM, queue_size=NEGATIVES)
    loss.queue.copy_(rows("rrd/queue", NEGATIVES))
    return filled(loss), ("student_pooled", "teacher_pooled")


def crd():
    loss = CRD(*DIMS, TRAIN_LABELS, dim=DIM, negatives=NEGATIVES)
    loss.student_bank.copy_(rows("crd/memory_student", NUM_TRAIN))
    loss.teacher_bank.copy_(rows("crd/memory_teacher", NUM_TRAIN))
    return filled(loss), ("student_pooled", "teacher_pooled", "labels", "index")


def step(loss: nn.Module, names: tuple[str, ...], x: SimpleNamespace) -> Tensor:
    given = {name: getattr(x, name) for name in names}
    if isinstance(loss, CRD):
        negatives = torch.arange(BATCH * NEGATIVES).view(BATCH, -1) * 7 + 3
        given["negative_index"] = negatives % NUM_TRAIN
    return loss(**given)


METHODS: tuple[Callable, ...] = (kd, fitnet, at, sp, vid, srrl, semckd, simkd, dcd, rrd, crd)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_value_and_gradients_are_those_of_the_public_code(method):
    expected, x = RESULTS[method.__name__], inputs()
    rel = 1e-5 if method is semckd else 1e-6  # its reference sums in float32
    loss, names = method()
    value = step(loss, names, x)
    assert value.item() == pytest.approx(expected["loss"], rel=rel)

    value.backward()
    found = {f"feature{i}": maps.grad for i, maps in enumerate(x.student_maps, start=1)}
    found |= {"embedding": x.student_pooled.grad, "logits": x.student_logits.grad}
    assert {name for name, grad in found.items() if grad is not None} == set(expected["grad"])
    for name, numbers in expected["grad"].items():
        norm = found[name].norm().item()
        assert norm == pytest.approx(numbers["norm"], rel=rel)
        first = found[name].flatten()[:6].tolist()
        assert first == pytest.approx(numbers["first"], rel=rel, abs=rel * norm / 100)

    learned = [p for p in loss.parameters() if p.requires_grad]
    assert norms(learned) == pytest.approx(published(method.__name__), rel=rel, abs=1e-9)


def norms(parameters: list[nn.Parameter]) -> list[float]:
    return sorted(p.grad.norm().item() for p in parameters)


def published(name: str) -> list[float]:
    """Return the gradient norms of the trained parameters, without DCD's bias, which we omit."""
    found = [(key, norm) for key, _, norm in RESULTS[name]["parameters"] if norm is not None]
    return sorted(norm for key, norm in found if key != "params.b")


def test_semckd_attends_as_the_public_code():
    loss, x = semckd()[0], inputs()
    attention = loss.attend(x.student_maps, x.teacher_maps)
    expected = torch.tensor(RESULTS["semckd"]["attention"], dtype=torch.float64)
    torch.testing.assert_close(attention[0], expected, rtol=1e-5, atol=0)


def test_rrd_stores_what_the_public_code_stores():
    loss, names = rrd()
    step(loss, names, inputs())
    same(loss.queue, RESULTS["rrd"]["queue_after"])


def test_crd_state_and_second_step_are_those_of_the_public_code():
    expected, x = RESULTS["crd"], inputs()
    loss, names = crd()
    step(loss, names, x)
    partition = [expected["z_student"], expected["z_teacher"]]
    assert loss.log_partition.exp().tolist() == pytest.approx(partition, rel=1e-6)
    same(loss.student_bank, expected["memory_student_after"])
    same(loss.teacher_bank, expected["memory_teacher_after"])
    assert step(loss, names, x).item() == pytest.approx(expected["second_loss"], rel=1e-6)


def same(tensor: Tensor, numbers: dict) -> None:
    assert tensor.numel() == numbers["numel"]
    assert tensor.norm().item() == pytest.approx(numbers["norm"], rel=1e-6)
    assert tensor.flatten()[:6].tolist() == pytest.approx(numbers["first"], rel=1e-6)


class Shown(nn.Module):
    """A student whose only stage is its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Identity()
        self.fc = nn.Linear(1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.stage(images)[:, 0, 0, :1])


def test_simkd_deploys_the_predictions_of_the_public_code():
    expected, x = RESULTS["simkd"], inputs()
    loss, names = simkd()
    step(loss, names, x)
    logits = loss.deploy(Shown(), Taps(maps=("stage",), head="fc")).train()(x.student_maps[-1])
    assert logits[0, :4].tolist() == pytest.approx(expected["logits_first"], rel=1e-6)
    assert logits.norm().item() == pytest.approx(expected["logits_norm"], rel=1e-6)


def test_srrl_predicts_as_the_public_code():
    loss, x = srrl()[0], inputs()
    logits = loss.teacher_head(loss.connector(x.student_pooled))
    expected = RESULTS["srrl"]["prediction_first"]
    assert logits[0, :4].tolist() == pytest.approx(expected, rel=1e-6)


def test_dcd_leaves_out_a_bias_without_gradient():
    gradients = {key: norm for key, _, norm in RESULTS["dcd"]["parameters"]}
    assert gradients["params.b"] < 1e-15
