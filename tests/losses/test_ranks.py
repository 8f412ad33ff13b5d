"""Every loss on several processes has the loss, gradient and memory of one process."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from distillers.distributed import collectives as ranks
from distillers.losses import CRD
from distillers.losses.wiring import bound_inputs
from tests.losses.cases import CASES, exported, mapped
from tests.processes import together

STEPS = 4
SHARES = {"2": (3, 3), "3": (2, 2, 2), "uneven": (4, 2)}


def frozen(loss: nn.Module) -> nn.Module:
    """Cast to float64, with batch normalization in evaluation mode: it depends on the process."""
    for module in loss.double().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return loss


def part(value: Any, rows: slice) -> Any:
    """Return these rows of a loss's input, as leaves that require gradient."""
    if isinstance(value, list):
        return [part(each, rows) for each in value]
    if not isinstance(value, Tensor):
        return value
    taken = value[rows].clone()
    return taken.requires_grad_() if taken.is_floating_point() else taken


def gradients(inputs: dict) -> dict[str, list[Tensor]]:
    """Return the gradients of the student's inputs by name, zeros if there is none."""
    return {
        name: [
            torch.zeros_like(x) if x.grad is None else x.grad
            for x in (value if isinstance(value, list) else [value])
        ]
        for name, value in inputs.items()
        if name.startswith("student")
    }


def run(name: str, counts: tuple[int, ...], rank: int) -> dict:
    """Run some steps of a loss on this process's rows of the batch."""
    case, world = CASES[name], len(counts)
    if name == "semckd" and len(set(counts)) > 1:
        return {}
    loss = frozen(case.build(exported()[name], batch_size=counts[rank]))
    rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    weight = counts[rank] / sum(counts)  # 1 / world size if they are equal
    uneven = len(set(counts)) > 1
    values, found = [], []
    for step in range(STEPS):
        whole = mapped(case.inputs(exported()[name], seed=step), lambda x: x.double())
        inputs = {key: part(value, rows) for key, value in whole.items()}
        if uneven and "rows_per_rank" in bound_inputs(loss.forward):
            inputs["rows_per_rank"] = counts
        value = loss(**inputs) * weight * world
        value.backward()
        values.append(value.detach() / world)
        found.append({k: [x / world for x in v] for k, v in gradients(inputs).items()})
    grads = {k: p.grad / world for k, p in loss.named_parameters() if p.grad is not None}
    return {"values": values, "inputs": found, "parameters": grads, "state": loss.state_dict()}


def sum_of_all(x: Tensor) -> Tensor:
    if dist.get_world_size() > 1:
        dist.all_reduce(x)
    return x


def compare(division: str) -> None:
    counts, rank = SHARES[division], dist.get_rank()
    found = {name: run(name, counts, rank) for name in CASES}
    for name, mine in found.items():
        if not mine:
            continue
        mine["values"] = [sum_of_all(value) for value in mine["values"]]
        mine["parameters"] = {k: sum_of_all(p) for k, p in mine["parameters"].items()}
        for key, value in mine["state"].items():
            everywhere = ranks.all_gather_stack(value.double())
            assert all(torch.equal(each, everywhere[0]) for each in everywhere), (name, key)
    torch.save(found, f"{division}-{rank}.pt")


@pytest.mark.parametrize("division", SHARES)
def test_processes_together_have_the_loss_gradient_and_state_of_one(
    division, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    counts = SHARES[division]
    together(len(counts), compare, division)
    parts = [torch.load(f"{division}-{rank}.pt") for rank in range(len(counts))]
    compared = 0
    for name in CASES:
        if not parts[0][name]:
            assert name == "semckd"
            continue
        expected, found = run(name, (6,), 0), [each[name] for each in parts]
        for key in ("values", "parameters", "state"):
            close(found[0][key], expected[key], f"{name}, {key}")
        for step, inputs in enumerate(expected["inputs"]):
            for key, tensors in inputs.items():
                joined = [
                    torch.cat([each["inputs"][step][key][i] for each in found])
                    for i in range(len(tensors))
                ]
                close(joined, tensors, f"{name}, step {step}, {key}")
        compared += 1
    assert compared >= len(CASES) - 1


def close(found: Any, expected: Any, where: str) -> None:
    torch.testing.assert_close(
        found, expected, rtol=1e-9, atol=1e-9, msg=lambda text: f"{where}: {text}"
    )


def compiled() -> None:
    for name in ("sp", "crd", "dcd"):
        torch.compiler.reset()
        inputs = CASES[name].inputs(exported()[name])
        plain, other = (CASES[name].build(exported()[name]) for _ in range(2))
        value = torch.compile(other, backend="aot_eager", fullgraph=True)(**inputs)
        torch.testing.assert_close(value, plain(**inputs))
        leaves = [{k: part(v, slice(None)) for k, v in inputs.items()} for _ in range(2)]
        torch.compile(other, backend="aot_eager", fullgraph=True)(**leaves[0]).backward()
        plain(**leaves[1]).backward()
        assert list(map(str, gradients(leaves[0]))) == list(map(str, gradients(leaves[1])))
        for key, grads in gradients(leaves[0]).items():
            torch.testing.assert_close(grads, gradients(leaves[1])[key])


@pytest.mark.slow
def test_a_loss_that_gathers_compiles_without_a_break():
    together(2, compiled)


def test_rows_of_one_process_are_its_own():
    x = torch.rand(3, 2, requires_grad=True)
    assert ranks.gathered(x) is x
    assert torch.equal(ranks.all_gather_rows(x), x)
    assert not ranks.all_gather_rows(x).requires_grad
    assert torch.equal(ranks.all_gather_stack(x), x[None])
    assert ranks.total_rows(x) == 3
    assert ranks.first_row(x) == 0
    assert CRD(4, 3, torch.arange(8) % 2, negatives=2).training
