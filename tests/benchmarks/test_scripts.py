"""The scripts in `benchmarks/`: what they name exists, and each of them runs on small data."""

import ast
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from distillers.cli.main import COMMANDS
from tests.docs import small_data

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
FLAG = re.compile(r"(?<![\w-])--(?:no-)?([a-z]\w*)")

# The smallest run of each script, in a folder with the data that it names, and what it prints if
# it writes no file. `study.py` has a test of its own.
RUNS = [
    ("augment.py memory --rounds 1 --out out.json", ""),
    ("augment.py steps --rounds 1 --out out.json", ""),
    ("augment.py folder --data_dir photos --workers 0 --rounds 1 --out out.json", ""),
    ("busy.py --busy 1 --epochs 1 --rounds 1", "beside 1 busy processes, round 0: OpenMP's own"),
    ("cache.py --rows 100 200 --out out.json", ""),
    ("dali_check.py cpu --images 70 --num_workers 1 --image_size 64", "passed"),
    ("data.py --data_dir data --images 256 --rounds 1 --out out.json", ""),
    ("data.py --folder --images 70 --workers 0 --rounds 1 --out out.json", ""),
    ("demo_weights.py --methods kd --seeds 100 --out out.json", ""),
    (
        "epoch.py --teacher resnet20 --student resnet8 --batches 2 --batch 8 --rounds 1 "
        "--workers 0 --gpu_id cpu --out out.json",
        "",
    ),
    (
        "few_labels.py --data_dir data --weights weights --work work --images 160 --epochs 1 "
        "--seeds 0 --out out.json",
        "",
    ),
    (
        "int8.py --data_dir data --save_dir save --networks resnet8 --labels_per_class 16 "
        "--epochs 1 --rounds 1 --out out.json",
        "",
    ),
    ("matrix.py --device cpu --side 64 --rounds 1 --out out.json", ""),
    ("memory.py --size 32 --images 70 --workers 0", "ratio: main process"),
    ("pack.py --weights weights --images 4 --out out.json", ""),
    (
        "pack_students.py --data_dir data --work work --images 64 --epochs 1 --seeds 0 "
        "--out out.json",
        "",
    ),
    ("ranks.py --processes 2 --batch 8 --rounds 1 --methods kd --out out.json", ""),
    (
        "recipes.py --data_dir data --save_dir save --images 80 --tests 4 --teacher resnet8 "
        "--methods kd --epochs 1 --longer 2 --seeds 0 --out out.json",
        "",
    ),
    ("scale.py --teacher resnet8 --student resnet8 --methods kd --rounds 1 --out out.json", ""),
    ("second_teacher.py --rounds 1 --out out.json", ""),
    (
        "speed.py --no-compile --methods kd --model_t resnet8 --model_s resnet8 --batch_size 8 "
        "--rounds 1 --out out.json",
        "",
    ),
    (
        "timm_loop.py --data_dir photos --save_dir save --teacher mobilenetv3_small_050 "
        "--image_size 32 --batch_size 16 --epochs 1 --num_workers 0 --seeds 0 "
        "--cases CNN\\ from\\ scratch --out out.json",
        "",
    ),
    (
        "views.py --data_dir data --work work --images 64 --teacher_images 64 --epochs 2 "
        "--views none all 1 --seeds 0 --out out.json",
        "",
    ),
    ("wkdl_memory.py", "MiB at 1,000 classes"),
]
IMPORTED = {"folder.py"}  # run by data.py
EXTRAS = {"dali_check.py": "nvidia.dali", "int8.py": "onnxruntime"}


@cache
def parsed(path):
    return ast.parse(path.read_text())


def nodes(path, *kinds):
    return [node for node in ast.walk(parsed(path)) if isinstance(node, kinds)]


def imported_names(path):
    """Return what a script imports of this library, by the names that it gives it."""
    found = {}
    for node in nodes(path, ast.ImportFrom):
        if node.module and node.module.split(".")[0] == "distillers":
            module = importlib.import_module(node.module)
            for each in node.names:
                if not hasattr(module, each.name):
                    importlib.import_module(f"{node.module}.{each.name}")
                found[each.asname or each.name] = getattr(module, each.name)
    for node in nodes(path, ast.Import):
        for each in node.names:
            if each.name.split(".")[0] == "distillers":
                importlib.import_module(each.name)
                found["distillers"] = sys.modules["distillers"]
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_names_of_the_library_exist(path):
    """Also those that a script imports within a function, or patches by name."""
    names = imported_names(path)
    for node in nodes(path, ast.Attribute):
        owner = names.get(node.value.id) if isinstance(node.value, ast.Name) else None
        if isinstance(owner, ModuleType):
            assert hasattr(owner, node.attr), f"{owner.__name__}.{node.attr}"
    for node in nodes(path, ast.Constant):
        if isinstance(node.value, str) and re.fullmatch(r"distillers(\.\w+)+", node.value):
            pkgutil.resolve_name(node.value)


@cache
def flags_of_commands():
    """Return the names of the flags of all commands."""
    modules = [importlib.import_module(f"distillers.cli.commands.{name}") for name in COMMANDS]
    configs = [
        each
        for module in modules
        for name, each in vars(module).items()
        if name.endswith("Config") and is_dataclass(each)
    ]
    assert len(configs) >= len(COMMANDS)
    return {field.name for config in configs for field in fields(config)}


def definitions(path):
    """Return the calls in which a script defines its own flags."""
    calls = [call for call in nodes(path, ast.Call) if isinstance(call.func, ast.Attribute)]
    return [call for call in calls if call.func.attr == "add_argument"]


def own_flags(path):
    return {
        flag
        for call in definitions(path)
        for arg in call.args
        for flag in FLAG.findall(str(getattr(arg, "value", "")))
    }


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_flags_exist(path):
    """Each is one of our commands', or one of the script, which some call themselves."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = {ast.get_docstring(each, clean=False) for each in nodes(path, *documented)}
    defining = {id(each) for call in definitions(path) for each in ast.walk(call)}
    words = [
        node.value
        for node in nodes(path, ast.Constant)
        if isinstance(node.value, str) and node.value not in texts and id(node) not in defining
    ]
    used = {flag for word in words for flag in FLAG.findall(word)}
    second = {"second"} if path.name == "speed.py" else set()  # hands the others to `bench`
    assert used <= flags_of_commands() | own_flags(path) | second


def test_files_and_flags_of_the_shell_script_exist():
    lines = (FOLDER / "gpu.sh").read_text().splitlines()
    text = "\n".join(line for line in lines if "pip install" not in line)
    scripts = {ROOT / name for name in re.findall(r"\b(?:[\w/]+/)?\w+\.py\b", text)}
    assert not [path for path in scripts if not path.is_file()]
    flags = {flag for path in scripts if path.parent == FOLDER for flag in own_flags(path)}
    assert set(FLAG.findall(text)) <= flags_of_commands() | flags


def test_every_script_is_run():
    names = {command.split()[0] for command, _ in RUNS}
    assert {path.name for path in SCRIPTS} == names | IMPORTED | {"study.py"}


def run(words, folder, **environment):
    """Run a command on the CPU and return what it prints; it must succeed."""
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        words,
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def python(command, folder):
    """Run a script with `python`, as the documentation prints it."""
    name, *words = (word.replace("\\ ", " ") for word in re.findall(r"(?:\\ |\S)+", command))
    return run([sys.executable, str(FOLDER / name), *words], folder)


def prepare(words, root):
    """Write the data sets and weights that a command names."""
    if "data" in words:
        small_data.cifar10(root)
    if "weights" in words:
        small_data.weights(root)
    if "photos" in words:
        flags = ["--to", str(root / "photos"), "--side", "64", "--most", "40"]
        run([sys.executable, str(ROOT / "examples/photographs.py"), *flags], root)


def results():
    """Return the times at which the measured results were last written."""
    return {path: path.stat().st_mtime_ns for path in (FOLDER / "results").rglob("*")}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("command", "printed"), RUNS, ids=[" ".join(c.split()[:2]) for c, _ in RUNS]
)
def test_script_runs(command, printed, tmp_path):
    if extra := EXTRAS.get(command.split()[0]):
        pytest.importorskip(extra)
    prepare(command.split(), tmp_path)
    before = results()
    text = python(command, tmp_path)
    if printed:
        assert printed in text
    else:
        assert json.loads((tmp_path / "out.json").read_text())
    assert results() == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_study_is_prepared_run_and_collected(tmp_path):
    small_data.cifar10(tmp_path)
    grid = yaml.safe_load((FOLDER / "study.yml").read_text())
    grid["fixed"] |= {"data_dir": "part", "epochs": 1, "lr_decay_epochs": "1", "views": 1}
    grid |= {"save_dir": "save", "trials": [0]}
    grid["methods"] = [each for each in grid["methods"] if each["name"] in ("alone", "KD (.1/.9)")]
    (tmp_path / "study.yml").write_text(yaml.safe_dump(grid))
    python("study.py prepare --data_dir data --grid study.yml", tmp_path)
    run([sys.executable, "-m", "distillers", "sweep", "study.yml"], tmp_path)
    text = python("study.py collect --grid study.yml --out out.json", tmp_path)
    assert "| KD (.1/.9) |" in text
    rows = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [row["trials"] for row in rows.values()] == [[0], [0]]
