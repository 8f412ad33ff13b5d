import pytest
import torch
from torch import Tensor, nn

from distillers.errors import InputError
from distillers.losses import CRD, wiring


class Odd(nn.Module):
    def forward(self, student_logit: Tensor) -> Tensor:
        return student_logit.sum()


class Greedy(nn.Module):
    def forward(self, *args: Tensor) -> Tensor:
        return args[0].sum()


class Wide(nn.Module):
    def __init__(self, student_dim: int, *, power: float = 2.0, deep: bool = False) -> None:
        super().__init__()
        if power < 0:
            raise ValueError("power is negative")
        self.weight = nn.Parameter(torch.ones(student_dim))
        self.power = power

    def forward(self, student_pooled: Tensor, extra: Tensor | None = None) -> Tensor:
        return (student_pooled * self.weight).pow(self.power).sum()


class Unknown(nn.Module):
    def __init__(self, student_width: int) -> None:
        super().__init__()

    def forward(self, student_pooled: Tensor) -> Tensor:
        return student_pooled.sum()


def test_only_required_parameters_are_wired():
    assert wiring.forward_inputs(Wide.forward) == ("student_pooled",)
    assert wiring.constructor_facts(Wide) == ("student_dim",)
    assert wiring.options(Wide) == {"power": 2.0, "deep": False}


def test_misspelt_values_and_facts_name_the_nearest():
    with pytest.raises(InputError, match=r"Odd.forward asks for .*did you mean 'student_logits'"):
        wiring.forward_inputs(Odd.forward)
    with pytest.raises(InputError, match=r"takes \*args"):
        wiring.forward_inputs(Greedy.forward)
    with pytest.raises(InputError, match="student_width"):
        wiring.constructor_facts(Unknown)


def test_build_checks_options_facts_and_values():
    facts = {"student_dim": 3}
    assert wiring.build(Wide, facts, {"power": 3.0}).power == 3.0
    with pytest.raises(InputError, match="option of Wide 'powr', did you mean 'power'"):
        wiring.build(Wide, facts, {"powr": 3.0})
    with pytest.raises(InputError, match="needs student_dim"):
        wiring.build(Wide, {}, {})
    with pytest.raises(InputError, match="Wide: power is negative"):
        wiring.build(Wide, facts, {"power": -1.0})


def test_text_is_read_as_the_type_of_the_default():
    assert wiring.parse_option(Wide, "power", "3") == 3.0
    assert isinstance(wiring.parse_option(Wide, "power", "3"), float)
    assert wiring.parse_option(Wide, "deep", "true") is True
    assert wiring.parse_option(Wide, "power", "1e-7") == 1e-7
    for text in ("yes please", "[1]", "1:30", "["):
        with pytest.raises(InputError, match="does not fit"):
            wiring.parse_option(Wide, "power", text)


def test_every_number_that_is_a_default_can_be_given_as_it_is_printed():
    for cls in wiring.losses().values():
        for name, default in wiring.options(cls).items():
            if type(default) in (int, float):
                assert wiring.parse_option(cls, name, str(default)) == default
    assert wiring.parse_option(CRD, "negatives", "010") == 10  # not YAML's octal 8
    assert wiring.parse_option(CRD, "negatives", "0x10") == 16
    assert wiring.parse_option(CRD, "partition_momentum", "99e-2") == 0.99


def test_losses_are_found_by_name_and_by_path():
    assert wiring.find("KD") is wiring.find("kd") is wiring.losses()["kd"]
    assert wiring.find("tests.losses.test_wiring:Wide") is Wide
    with pytest.raises(InputError, match=r"no loss 'kdd', did you mean 'kd'\?"):
        wiring.find("kdd")
    with pytest.raises(InputError, match="did you mean 'srd' or 'sdd' or 'rrd'"):  # equally near
        wiring.find("rdd")
    for wrong in (":KD", "no.such:Thing", "tests.losses.test_wiring:Nothing", "math:pi"):
        with pytest.raises(InputError, match=wrong):
            wiring.find(wrong)
