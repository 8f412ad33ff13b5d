"""The second set of methods against numbers from their public implementations."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers import losses
from distillers.losses import wiring
from distillers.losses.wkdl import cka_cost
from tests.golden.fill import draw, fill_by_shape

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses_second.json").read_text())
ENTRIES = [
    (case, name)
    for case, content in GOLDEN.items()
    if case != "others"
    for name, entry in content["results"].items()
    if hasattr(losses, entry["class"] or "")
]
TOLERANCE = {"DISTPlus": 1e-5}


def inputs_of(case: str, entry: dict) -> dict[str, Any]:
    """Return the input of the reference by the names of `forward`."""
    config = GOLDEN[case]["config"]
    batch, classes = config["batch"], config["classes"]
    default = config.get("labels", [i * 3 % classes for i in range(batch)])
    values: dict[str, Any] = {
        "labels": torch.tensor(entry.get("labels", default)),
        "progress": entry.get("progress", 1.0),
    }
    for who, scale in (("student", 2), ("teacher", 3)):
        logits = (scale * draw(f"{case}/{who}/logits", batch, classes)).double()
        if case == "large_logits":
            logits = 50 * draw(f"{case}/{who}/logits", batch, classes).double().sign()
        if case == "flat_rows":
            logits[:2] = 0.7
        values[f"{who}_logits"] = logits
        strong = draw(f"{case}/{who}/logits_strong", batch, classes).double()
        values[f"{who}_logits_strong"] = (
            50 * strong.sign() if case == "large_logits" else (scale * strong.float()).double()
        )
        if who in config:
            maps = [
                draw(f"{case}/{who}/{i}", batch, c, side, side).double().relu()
                for i, (c, side) in enumerate(config[who])
            ]
            values[f"{who}_maps"] = maps[1:]
            values |= shown(case, entry, who, scale)
            values[f"{who}_pooled"] = (
                draw(f"{case}/{who}/embedding", batch, config[who][-1][0]).double().abs()
            )
        if "mgd" in entry["class"].lower():
            channels = GOLDEN[case]["config"]["teacher"][-1][0]
            values["mask"] = (draw(f"{case}/mgd/mask", batch, channels) > -1.0)[:, :, None, None]
    values.setdefault("student_maps", [])  # not read without exits
    if case == "student_is_teacher":
        for name in ("logits", "logits_strong"):
            values[f"student_{name}"] = values[f"teacher_{name}"].clone()
    return values


def shown(case: str, entry: dict, who: str, scale: int) -> dict[str, Any]:
    """Return the class maps and tokens, and logits that are those of the class maps."""
    config = GOLDEN[case]["config"]
    batch, classes, side = config["batch"], config["classes"], config[who][-1][1]
    blocks, tokens, width = config["tokens"][who]
    maps = (scale * draw(f"{case}/{who}/class_maps", batch, classes, side, side)).double()
    values: dict[str, Any] = {
        f"{who}_class_maps": maps.requires_grad_(who == "student"),
        f"{who}_tokens": [
            draw(f"{case}/{who}/tokens/{i}", batch, tokens, width).double() for i in range(blocks)
        ],
    }
    if entry.get("logits_from_maps"):
        bias = 0.1 * draw(f"{case}/{who}/class_bias", classes)
        values[f"{who}_logits"] = maps.mean((2, 3)) + bias
    if entry["class"] == "ViTKD":
        values["noise"] = draw(f"{case}/vitkd/noise", batch, tokens).double()
    return values


def facts_of(case: str, entry: dict) -> dict[str, Any]:
    config = GOLDEN[case]["config"]
    facts: dict[str, Any] = {"num_classes": config["classes"]}
    width = 8
    for who in ("student", "teacher"):
        if who in config:
            facts[f"{who}_channels"] = [c for c, _ in config[who][1:]]
            facts[f"{who}_sizes"] = [(side, side) for _, side in config[who][1:]]
            facts[f"{who}_dim"] = width = config[who][-1][0]
    head = nn.Linear(width, config["classes"])
    with torch.no_grad():
        head.weight.copy_(0.2 * draw(f"{case}/classifier/weight", *head.weight.shape))
        head.bias.copy_(0.1 * draw(f"{case}/classifier/bias", *head.bias.shape))
    return facts | {"teacher_head": head} | (entry.get("facts") or {})


def build(case: str, entry: dict) -> nn.Module:
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in entry["options"].items()}
    torch.manual_seed(0)
    loss = wiring.build(getattr(losses, entry["class"]), facts_of(case, entry), options)
    fill_by_shape(loss)
    return prepare.get(entry["class"], lambda loss, _: loss)(loss.double(), case)


def orthogonal(loss: nn.Module, case: str) -> nn.Module:
    teacher, student = loss.project.weight.shape
    drawn = draw(f"{case}/vkd/weight", max(student, teacher), min(student, teacher)).double()
    matrix, triangle = torch.linalg.qr(drawn)
    matrix = matrix * triangle.diagonal().sign()
    loss.project.weight = matrix.T if student > teacher else matrix
    return loss


def full(loss: nn.Module, case: str) -> nn.Module:
    size, width = loss.queue.shape
    rows = F.normalize(draw(f"{case}/queuekl/queue", size // 2, width).double(), dim=1)
    loss.queue.copy_(torch.cat((rows, rows)))
    loss.written.fill_(True)
    return loss


def with_token(loss: nn.Module, case: str) -> nn.Module:
    with torch.no_grad():
        loss.mask_token.copy_(draw(f"{case}/vitkd/mask_token", *loss.mask_token.shape))
    return loss


prepare: dict[str, Any] = {"VkD": orthogonal, "QueueKL": full, "ViTKD": with_token}


def close(found: float, expected: float | None, tolerance: float) -> None:
    if expected is None:  # the public code divides by zero
        assert math.isfinite(found)
    else:
        assert found == pytest.approx(expected, rel=tolerance, abs=1e-9)


def ask(value: Any) -> Any:
    """Ask for gradients, which the logits of class maps pass on to these."""
    if isinstance(value, list):
        return [x.requires_grad_() for x in value]
    if not value.is_leaf:
        value.retain_grad()
    return value.requires_grad_()


@pytest.mark.parametrize(("case", "name"), ENTRIES)
def test_value_and_gradients_are_those_of_the_public_code(case, name):
    entry = GOLDEN[case]["results"][name]
    tolerance = TOLERANCE.get(entry["class"], 1e-6)
    values = inputs_of(case, entry)
    loss = build(case, entry)
    taken = {key: values[key] for key in wiring.forward_inputs(loss.forward)}
    taken = {k: ask(v) if k.startswith("student") else v for k, v in taken.items()}
    taken |= {key: values[key] for key in ("mask", "noise") if key in values}
    value = loss(**taken)
    close(value.item(), entry["loss"], tolerance)
    value.backward()
    compare_gradients(taken, entry, tolerance)
    compare_parameters(loss, entry, tolerance)


def compare_gradients(taken: dict[str, Any], entry: dict, tolerance: float) -> None:
    named: dict[str, Tensor] = {}
    for key, value in taken.items():
        short = key.removeprefix("student_")
        if key == "student_maps":
            named |= {f"feature{i}": x for i, x in enumerate(value, start=1)}
        elif key == "student_tokens":
            named |= {f"tokens{i}": x for i, x in enumerate(value)}
        elif key.startswith("student"):
            named["embedding" if short == "pooled" else short] = value
    for key, numbers in entry["grad"].items():
        gradient = named[key].grad
        norm = gradient.norm().item()
        close(norm, numbers["norm"], tolerance)
        for found, expected in zip(gradient.flatten().tolist(), numbers["first"], strict=False):
            assert expected is None or found == pytest.approx(
                expected, rel=tolerance, abs=max(1e-9, 1e-8 * norm)
            )
            assert math.isfinite(found)


def compare_parameters(loss: nn.Module, entry: dict, tolerance: float) -> None:
    if entry["class"] == "VkD":  # depends on the parametrization
        return
    found = sorted((tuple(p.squeeze().shape), p.grad.norm().item()) for p in loss.parameters())
    wanted = sorted(
        (tuple(torch.empty(shape).squeeze().shape), norm) for _, shape, norm in entry["parameters"]
    )
    assert [shape for shape, _ in found] == [shape for shape, _ in wanted]
    for (_, norm), (_, expected) in zip(found, wanted, strict=True):
        assert norm == pytest.approx(expected, rel=tolerance, abs=1e-9)


@pytest.mark.parametrize("case", ["equal_grids", "equal_widths"])
def test_the_second_step_of_queuekl_sees_the_first(case):
    entry = GOLDEN[case]["results"]["queuekl"]
    loss, values = build(case, entry), inputs_of(case, entry)
    for expected in (entry["loss"], entry["second_loss"]):
        close(loss(values["student_pooled"], values["teacher_pooled"]).item(), expected, 1e-6)


@pytest.mark.parametrize("case", ["equal_grids", "equal_widths"])
def test_buffers_after_a_step_are_those_of_the_public_code(case):
    wanted: dict[str, dict] = {}
    for name in ("srd", "queuekl"):
        entry = GOLDEN[case]["results"][name]
        loss, values = build(case, entry), inputs_of(case, entry)
        for module in loss.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.reset_running_stats()
        loss(**{key: values[key] for key in wiring.forward_inputs(loss.forward)})
        numbers = {k: v for k, v in entry.items() if "running" in k or k == "queue_after"}
        wanted |= numbers
        for key, expected in numbers.items():
            who, _, field = key.partition("_")
            found = loss.queue if who == "queue" else getattr(getattr(loss, f"{who}_norm"), field)
            assert found.norm().item() == pytest.approx(expected["norm"], rel=1e-6)
            assert found.flatten()[:6].tolist() == pytest.approx(expected["first"], rel=1e-6)
    assert len(wanted) > 2


@pytest.mark.parametrize(
    "case", ["equal_grids", "equal_widths", "teacher_wrong", "two_classes", "large_logits"]
)
def test_the_transport_of_wkdl_decays(case):
    entry = GOLDEN[case]["results"]["wkdl"]
    values = inputs_of(case, entry) | {"progress": 0.75}
    loss = build(case, entry)
    taken = {key: values[key] for key in wiring.forward_inputs(loss.forward)}
    close(loss(**taken).item(), entry["loss_at_progress_075"], 1e-6)


def test_the_costs_of_wkdl_from_features_are_those_of_the_public_code():
    entry = GOLDEN["others"]["results"]["wkd_cost"]
    cost = cka_cost(draw("wkd_cost/features", *entry["shape"]).double())
    assert cost.norm().item() == pytest.approx(entry["cost"]["norm"], rel=1e-6)
    assert cost.flatten()[:6].tolist() == pytest.approx(entry["cost"]["first"], abs=1e-6)
