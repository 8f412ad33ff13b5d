"""--recipe: what it sets, what the user overrides, and when one is chosen without the flag."""

import json
from dataclasses import fields

import pytest

from distillers.cli.commands.cache import ExportConfig, ImportConfig
from distillers.config import recipes
from distillers.config.parsing import parse
from distillers.config.recipes import RECIPES
from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.config.transfer import TransferConfig
from distillers.errors import InputError

KINDS = {"teacher": TeacherConfig, "student": StudentConfig, "transfer": TransferConfig}
NEEDED = {"teacher": [], "student": ["--path_t", "x"], "transfer": ["--path_s", "x"]}


def parsed(words: str, command: str = "student"):
    config = parse(KINDS[command], [*NEEDED[command], *words.split()], "x")
    config.check()
    return config


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("command", KINDS)
def test_every_recipe_sets_its_flags_and_passes_every_check(name, command):
    recipe = RECIPES[name]
    if command not in recipe.commands:
        with pytest.raises(InputError, match=f"--recipe {name} is not for {command}; take one of"):
            parsed(f"--recipe {name}", command)
        return
    more = {"teacher": "--model timm:test_vit", "student": "--model_s timm:test_vit"}
    config = parsed(f"--recipe {name} {more.get(command, '--mode finetune')}", command)
    assert config.recipe == name
    assert {flag: getattr(config, flag) for flag in recipe.flags} == dict(recipe.flags)
    defaults = {field.name: field.default for field in fields(config)}
    set_here = {"recipe", "path_t", "path_s", "model", "model_s", "mode", *recipe.flags}
    others = {flag: value for flag, value in vars(config).items() if flag not in set_here}
    assert others == {flag: defaults[flag] for flag in others}


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("teacher", "", None),
        ("teacher", "--dataset imagenet --pretrained", None),
        ("teacher", "--dataset folder", None),
        ("teacher", "--dataset folder --pretrained", "finetune"),
        ("teacher", "--dataset folder --pretrained w.pth --recipe published", "published"),
        ("student", "--dataset cifar100 --pretrained", None),
        ("student", "--dataset folder", "distil"),
        ("student", "--dataset=folder --pretrained", "finetune"),
        ("student", "--dataset folder --recipe a3", "a3"),
        ("transfer", "--dataset folder", None),
        ("transfer", "--dataset folder --mode finetune", "finetune"),
        ("transfer", "--mode finetune", None),
    ],
)
def test_only_images_of_the_user_have_another_recipe_by_default(command, words, expected):
    assert parsed(words, command).recipe == expected


@pytest.mark.parametrize("kind", [ExportConfig, ImportConfig])
def test_commands_of_the_cache_have_the_recipes_of_a_student(kind):
    config = parse(kind, ["out", "--dataset", "folder", "--path_t", "x", "--epochs", "7"], "x")
    assert (config.pack, config.recipe, config.epochs) == ("out", "distil", 7)
    assert config.opt == parsed("--dataset folder").opt


def test_published_is_the_defaults_of_all_flags():
    published = parsed("--dataset folder --recipe published")
    plain = StudentConfig(path_t="x", dataset="folder")
    assert published.digest() == plain.digest() != parsed("--dataset folder").digest()


def test_the_command_line_overrides_a_file_and_both_override_a_recipe(tmp_path):
    file = tmp_path / "flags.yml"
    file.write_text("recipe: patient\nepochs: 50\nmixup: 0.5\n")
    config = parsed(f"--config {file} --mixup 0.3 --no-sched_on_updates")
    assert (config.recipe, config.epochs, config.mixup) == ("patient", 50, 0.3)
    assert (config.opt, config.sched_on_updates, config.cls) == ("adamw", False, 0.0)
    line = recipes.describe(config)
    assert line.startswith("recipe patient: --opt adamw --learning_rate 0.01 ")
    assert line.endswith(
        "(instead of --sched_on_updates --warmup_epochs 232 --epochs 1000 --mixup 1.0)"
    )


def test_none_takes_a_flag_of_a_recipe_away(tmp_path):
    assert parsed("--recipe distil --clip_grad None").clip_grad is None
    file = tmp_path / "flags.json"
    file.write_text('{"recipe": "distil", "clip_grad": null}')
    config = parsed(f"--config {file}")
    assert (config.clip_grad, config.opt) == (None, "nesterov")
    assert "--clip_grad None" in recipes.describe(config)
    file.write_text('{"recipe": "distil", "clip-grad": null}')
    assert parsed(f"--config {file}") == config
    file.write_text('{"recipe": "distil", "clip_gard": null}')
    with pytest.raises(InputError, match=r"flags\.json 'clip_gard', did you mean 'clip_grad'"):
        parsed(f"--config {file}")


@pytest.mark.parametrize(
    "words",
    [
        "--recipe a2 --batch_size 64 --model_s timm:test_vit --drop_path None",
        "--dataset folder",
        "--dataset folder --recipe published --epochs 3",
        "",
    ],
)
def test_the_flags_that_a_run_has_written_down_give_the_same_run(words, tmp_path):
    config = parsed(words)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.as_json_types()))
    again = parsed(f"--config {file}")
    assert again.digest() == config.digest()
    assert again.recipe == config.recipe


def test_the_same_flags_are_the_same_run_however_they_were_given():
    flags = "--opt nesterov --learning_rate 0.01 --weight_decay 1e-4 --clip_grad 1 --sched cosine"
    flags += " --sched_on_updates --warmup_epochs 1 --epochs 20 --scale 0.64,1"
    assert parsed(flags).digest() == parsed("--recipe finetune").digest() != parsed("").digest()


@pytest.mark.parametrize(
    ("words", "flag", "expected"),
    [
        ("--recipe a1 --batch_size 512", "learning_rate", 2.5e-3),  # by the square root
        ("--recipe a1 --batch_size 512 --accumulate 4", "learning_rate", 5e-3),
        ("--recipe a1 --batch_size 512 --learning_rate 1e-3", "learning_rate", 1e-3),
        ("--recipe deit --batch_size 256", "learning_rate", 2.5e-4),
        ("--recipe finetune --batch_size 16", "learning_rate", 0.0025),
        ("--recipe published --batch_size 16", "learning_rate", None),
        ("--recipe distil --epochs 4", "warmup_epochs", 0),
        ("--recipe distil --epochs 6", "warmup_epochs", 1),
        ("--recipe distil --epochs 300", "warmup_epochs", 2),
        ("--recipe distil --epochs 4 --warmup_epochs 3", "warmup_epochs", 3),
        ("--recipe patient --epochs 1000", "warmup_epochs", 232),  # as without --epochs
        ("--recipe patient --epochs 100", "warmup_epochs", 20),
        ("--recipe distil --lr_decay_epochs 8,11", "sched", "multistep"),
        ("--recipe distil --lr_decay_epochs 8,11 --sched poly", "sched", "poly"),
        ("--recipe a1", "drop_path", None),  # resnet8x4 has none
        ("--recipe a1 --drop_path 0.2", "drop_path", 0.2),
        ("--recipe a1 --model_s timm:test_vit", "drop_path", 0.05),
    ],
)
def test_recipes_are_adapted_to_flags_of_the_user(words, flag, expected):
    assert getattr(parsed(words), flag) == pytest.approx(expected)


def test_an_unknown_recipe_and_a_warmup_as_long_as_the_run_are_refused():
    with pytest.raises(InputError, match="no recipe 'patent', did you mean 'patient'"):
        parsed("--recipe patent")
    with pytest.raises(InputError, match="no recipe ''"):
        parse(StudentConfig, ["--path_t", "x", "--recipe", ""], "x")
    with pytest.raises(InputError, match="--warmup_epochs is 5; it must be less than --epochs 5"):
        parsed("--recipe distil --epochs 5 --warmup_epochs 5")
