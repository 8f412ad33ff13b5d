"""A file never decides what is imported: --config and grids need --trust for code of one's own."""

import json
import sys

import pytest

from distillers.cli.commands.sweep import SweepConfig
from distillers.config.parsing import parse
from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.config.transfer import TransferConfig
from distillers.errors import InputError
from distillers.sweep.expand import expand

NETWORK, LOSS = "stranger.code:Net", "stranger.code:Loss"
CONFIGS = {
    "model": (TeacherConfig, {"model": NETWORK}),
    "model_s": (StudentConfig, {"model_s": NETWORK}),
    "model_t": (StudentConfig, {"model_t": NETWORK}),
    "loss": (StudentConfig, {"loss": LOSS}),
    "distill": (StudentConfig, {"distill": f"kd+ {LOSS}"}),
    "transfer": (TransferConfig, {"model_s": NETWORK}),
    "its own trust": (StudentConfig, {"loss": LOSS, "trust": ["stranger"]}),
    "a value that is a flag": (StudentConfig, {"loss": LOSS, "taps_t": ["--trust", "stranger"]}),
    "teacher": (StudentConfig, {"path_t": NETWORK}),
    "teacher's architecture": (StudentConfig, {"path_t": f"{NETWORK}=there.pth"}),
    "further teacher": (StudentConfig, {"path_t": "there.pth", "also_t": [NETWORK]}),
}


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A package that fails the test when it is imported, beside the current folder's files."""
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_file_does_not_import_code_of_its_choice(case, stranger):
    kind, content = CONFIGS[case]
    path = stranger / "config.json"
    path.write_text(json.dumps({"dataset": "digits", **content}))
    words = ["--config", str(path)]
    with pytest.raises(InputError, match=r"names stranger\.code.*add --trust stranger\.code"):
        parse(kind, words, "test")
    with pytest.raises(InputError, match="add --trust"):
        parse(kind, [*words, "--trust", "other,strange"], "test")
    for trusted in ("stranger", "stranger.code", "other,stranger.code"):
        assert parse(kind, [*words, "--trust", trusted], "test").dataset == "digits"


def test_what_the_command_line_names_is_trusted(stranger):
    path = stranger / "config.yml"
    path.write_text(f"loss: {LOSS}\nmodel_s: timm:resnet18\nmodel_t: torchvision:resnet18\n")
    words = ["--config", str(path)]
    assert parse(StudentConfig, [*words, "--loss", LOSS], "test").loss == LOSS
    assert parse(StudentConfig, [*words, "--loss", "my.own:Loss"], "test").loss == "my.own:Loss"
    assert parse(StudentConfig, ["--loss", LOSS, "--model_s", NETWORK], "test").model_s == NETWORK


GRIDS = {
    "method": {"methods": ["kd", LOSS]},
    "sum": {"methods": [f"kd+{LOSS}"]},
    "loss": {"methods": [{"name": "harmless", "loss": LOSS}]},
    "distill": {"methods": [{"distill": f"kd+{LOSS}"}]},
    "student": {"pairs": [f"resnet8 -> {NETWORK}"]},
    "teacher": {"pairs": [f"{NETWORK} -> resnet8"]},
    "model of a teacher": {"teachers": {"resnet8": {"model": NETWORK}}},
    "fixed": {"fixed": {"model-t": NETWORK}},
    "flag of a pair": {"pairs": [{"pair": "there.pth -> resnet8", "model_t": NETWORK}]},
    "flag of a method": {"methods": [{"distill": "kd", "model_t": NETWORK}]},
    "set": {"set": {"model_t": ["resnet8", NETWORK]}},
    "list of one": {"fixed": {"model_t": [NETWORK]}},
    "path of a teacher": {"teachers": {"resnet8": NETWORK}},
    "architecture of a teacher's file": {"teachers": {"resnet8": f"{NETWORK}=there.pth"}},
    "further teacher": {"fixed": {"also_t": NETWORK}},
    "further teachers": {"set": {"also_t": [["there.pth", f"{NETWORK}=there.pth"]]}},
}


@pytest.mark.parametrize("case", GRIDS)
def test_a_grid_does_not_import_code_of_its_choice(case, stranger):
    path = stranger / "grid.json"
    path.write_text(json.dumps({"pairs": ["resnet8 -> resnet8"], **GRIDS[case]}))
    grid = SweepConfig(str(path)).build_grid()
    for check in (grid.check, lambda: expand(grid)):
        with pytest.raises(InputError, match=r"the grid names stranger.*add --trust stranger\."):
            check()
    SweepConfig(str(path), trust=("stranger.code",)).build_grid().check()


@pytest.mark.parametrize("entry", [{"trusted": ["stranger"]}, {"fixed": {"trust": "stranger"}}])
def test_a_grid_cannot_trust_itself(entry, stranger):
    path = stranger / "grid.json"
    path.write_text(json.dumps({"pairs": ["resnet8 -> resnet8"], "methods": [LOSS], **entry}))
    with pytest.raises(InputError, match="trust"):
        SweepConfig(str(path)).build_grid()


def test_names_on_the_command_line_of_a_sweep_are_trusted(stranger):
    path = stranger / "grid.json"
    path.write_text(json.dumps({"pairs": ["resnet8 -> resnet8"], "methods": [LOSS]}))
    SweepConfig(str(path), methods=("kd",)).build_grid().check()
    SweepConfig(str(path), methods=(LOSS,)).build_grid().check()
    SweepConfig(pairs=(f"resnet8 -> {NETWORK}",), methods=(LOSS,)).build_grid().check()
