"""Write the published protocols as commands and as grids: python scripts/make_scripts.py.

The pairs of networks are those of `examples/sweep_cifar100.yml`; weights and options are those of
`distillers.distillation.recipes`. A pair that a method refuses is left out, with the reason.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
import yaml

import distillers
from distillers import models
from distillers.distillation import recipes
from distillers.errors import InputError

SCRIPTS = Path(__file__).parent
GRID = yaml.safe_load((SCRIPTS.parent / "examples/sweep_cifar100.yml").read_text())
CIFAR_PAIRS = [tuple(pair.split(" -> ")) for pair in GRID["pairs"]]
IMAGENET_PAIRS = [("ResNet34", "ResNet18"), ("ResNet50", "ResNet18")]
# Of a protocol's methods, those that are not distillation of one view of an image by a CNN.
NOT_HERE = ("ce", "softce", "bce", "vitkd", "hkd", "queuekl")
SOLVER = {
    "cifar100": (
        "--dataset cifar100 --epochs 240 --batch_size 64 --lr_decay_epochs 150,180,210"
        " --weight_decay 5e-4"
    ),
    "imagenet": (
        "--dataset imagenet --epochs 120 --batch_size 256 --lr_decay_epochs 30,60,90"
        " --weight_decay 1e-4 --num_workers 32 --multiprocessing-distributed --dali gpu"
    ),
}
SHELL = """\
#!/bin/sh
# {title}
# Written by scripts/make_scripts.py. TRIAL is the seed; flags of this script go to every command.
set -eu
cd "$(dirname "$0")/.."
"""


def main() -> None:
    """Write all files."""
    for name, text in files().items():
        (SCRIPTS / name).write_text(text)
        (SCRIPTS / name).chmod(0o755 if name.endswith(".sh") else 0o644)


def files() -> dict[str, str]:
    """Return the text of each file by its name."""
    found = {}
    for dataset, pairs in (("cifar100", CIFAR_PAIRS), ("imagenet", IMAGENET_PAIRS)):
        names = dict.fromkeys(teacher for teacher, _ in pairs)
        found[f"{dataset}_teachers.sh"] = script(
            f"The teachers of the published pairs on {dataset}.",
            [teacher_command(name, dataset) for name in names],
        )
        for protocol in recipes.PROTOCOLS:
            each = {
                method: {pair: refusals(*pair, dataset).get(method) for pair in pairs}
                for method in methods(protocol)
            }
            lines = [
                line
                for method, fitting in each.items()
                for line in student_commands(method, fitting, protocol, dataset)
            ]
            title = f"The students of the published pairs on {dataset}, protocol {protocol}."
            found[f"{dataset}_{protocol}_students.sh"] = script(title, lines)
            found[f"{dataset}_{protocol}.yml"] = grid(each, pairs, protocol, dataset)
    found["transfer.sh"] = transfer()
    return found


def methods(protocol: str) -> list[str]:
    """Return the methods whose weights a protocol publishes."""
    return [name for name in recipes.PROTOCOLS[protocol] if name not in NOT_HERE]


def script(title: str, lines: list[str]) -> str:
    """Return a shell script of commands."""
    return SHELL.format(title=title) + "\n".join(lines) + "\n"


def teacher_command(name: str, dataset: str) -> str:
    """Return the command that trains a teacher."""
    rate = recipes.learning_rate(name, 224 if dataset == "imagenet" else 32)
    flags = f"{SOLVER[dataset]} --learning_rate {rate:g} --trial 0"
    return f'python train_teacher.py --model {name} {flags} "$@"'


def student_commands(
    method: str, pairs: dict[tuple[str, str], str | None], protocol: str, dataset: str
) -> Iterator[str]:
    """Yield the commands of a method: one for each pair, or the reason why there is none."""
    for (teacher, student), refusal in pairs.items():
        if refusal:
            yield f"# {method}, {teacher} to {student}: {refusal}"
            continue
        row = recipes.recipe(protocol, method, dataset=dataset, teacher=teacher, student=student)
        rate = recipes.learning_rate(student, 224 if dataset == "imagenet" else 32)
        yield (
            f"python train_student.py --path_t save/teachers/models/{teacher}_vanilla"
            f" --model_s {student} --distill {method} --protocol {protocol}"
            f" -c {row.ce:g} -d {row.kd:g} -b {row.method:g}{options(method, row)}"
            f' {SOLVER[dataset]} --learning_rate {rate:g} --trial "${{TRIAL:-1}}" "$@"'
        )


def options(method: str, row: recipes.Recipe) -> str:
    """Return the options of a recipe as flags."""
    named = {key if "." in key else f"{method}.{key}": each for key, each in row.options.items()}
    return "".join(f" --option {key}={value}" for key, value in named.items())


@cache
def refusals(teacher: str, student: str, dataset: str) -> dict[str, str]:
    """Return the methods that refuse a pair of networks, each with its reason."""
    classes, side = (1000, 224) if dataset == "imagenet" else (100, 32)
    nets = [
        models.create(name, num_classes=classes, image_size=side) for name in (student, teacher)
    ]
    names = {name for protocol in recipes.PROTOCOLS for name in methods(protocol)} - {"sdd"}
    found: dict[str, str] = {}
    while True:
        try:
            distillers.distil(
                *nets,
                dict.fromkeys(sorted(names - set(found)), 1.0),
                images=torch.zeros(4, 3, side, side),
                train_labels=torch.arange(2 * classes) % classes,
                batch_size=4,
            )
        except InputError as error:
            reason = str(error).splitlines()[0]
            name = re.match(r"\w*", reason)[0].lower()
            if name not in names:
                raise
            found[name] = reason
        else:
            return found


def grid(
    each: dict[str, dict[tuple[str, str], str | None]],
    pairs: list[tuple[str, str]],
    protocol: str,
    dataset: str,
) -> str:
    """Return a grid for `distillers sweep`: five trials of every method on every pair."""
    arrow = {pair: " -> ".join(pair) for pair in pairs}
    rows: list[object] = ["alone"]
    for method, fitting in each.items():
        fit = [arrow[pair] for pair, why in fitting.items() if why is None]
        rows.append(method if len(fit) == len(pairs) else {"distill": method, "pairs": fit})
    fixed: dict[str, object] = {"dataset": dataset, "protocol": protocol, "save_freq": 0}
    if dataset == "imagenet":
        fixed |= {
            "epochs": 120,
            "batch_size": 256,
            "lr_decay_epochs": "30,60,90",
            "weight_decay": 1e-4,
        }
    content = {
        "save_dir": f"save/{dataset}_{protocol}",
        "fixed": fixed,
        "pairs": list(arrow.values()),
        "methods": rows,
        "trials": [1, 2, 3, 4, 5] if dataset == "cifar100" else [1],
    }
    head = "# Written by scripts/make_scripts.py; --dry_run shows hours and disk.\n"
    return head + yaml.safe_dump(content, sort_keys=False, width=100)


def transfer() -> str:
    """Return the script of the published transfer: linear probes of the students of one pair."""
    lines = [
        "for run in save/students/models/S_wrn_16_2_T_wrn_40_2_cifar100_*; do",
        *(
            f'  python transfer_student.py --path_s "$run" {flags} --protocol public "$@"'
            for flags in ("--dataset stl10", "--dataset tinyimagenet")
        ),
        "done",
    ]
    return script("Linear probes of the distilled wrn_16_2 on STL-10 and Tiny ImageNet.", lines)


if __name__ == "__main__":
    main()
