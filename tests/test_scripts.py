"""The scripts of the published protocols: commands parse, none differs from the recipes."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import tyro
import yaml

from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.config.transfer import TransferConfig
from distillers.distillation import recipes
from distillers.sweep.grid_file import read_grid

SCRIPTS = Path(__file__).parents[1] / "scripts"
CONFIGS = {
    "train_teacher.py": TeacherConfig,
    "train_student.py": StudentConfig,
    "transfer_student.py": TransferConfig,
}


def commands():
    """The words of every command, with its file."""
    for path in sorted(SCRIPTS.glob("*.sh")):
        text = path.read_text().replace('"${TRIAL:-1}"', "1").replace('"$@"', "")
        for line in text.replace('"$run"', "RUN").splitlines():
            if line.strip().startswith("python "):
                yield path.stem, shlex.split(line)[1:]


def parse(words):
    return tyro.cli(CONFIGS[words[0]], args=words[1:])


def test_a_command_of_each_method_parses():
    one_each = {(stem, *re.findall(r"--distill (\S+)", " ".join(w))): w for stem, w in commands()}
    assert len(one_each) > 60
    for words in one_each.values():
        parse(words)


@pytest.mark.slow
def test_every_command_parses_and_has_the_published_weights():
    for _, words in commands():
        config = parse(words)
        if not isinstance(config, StudentConfig):
            continue
        names = {"teacher": Path(config.path_t).name.removesuffix("_vanilla")}
        names |= {"student": config.model_s, "dataset": config.dataset}
        row = recipes.recipe(config.protocol, config.distill, **names)
        assert (config.cls, config.div, config.beta) == (row.ce, row.kd, row.method)


def test_every_published_pair_has_a_command_or_a_reason():
    pairs = yaml.safe_load((SCRIPTS / "cifar100_crd.yml").read_text())["pairs"]
    assert len(pairs) == 13
    for protocol in recipes.PROTOCOLS:
        text = (SCRIPTS / f"cifar100_{protocol}_students.sh").read_text()
        for pair in pairs:
            teacher, student = pair.split(" -> ")
            for method in ("kd", "simkd", "crd"):
                assert f"{teacher}_vanilla --model_s {student} --distill {method} " in text


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.yml")), ids=lambda path: path.stem)
def test_every_grid_is_read(path):
    grid = read_grid(str(path))
    assert len(grid.methods) >= 15
    assert len(grid.pairs) in (2, 13)


@pytest.mark.slow
def test_the_scripts_are_those_of_the_recipes():
    module = runpy.run_path(str(SCRIPTS / "make_scripts.py"))
    for name, text in module["files"]().items():
        assert (SCRIPTS / name).read_text() == text, "run scripts/make_scripts.py"
