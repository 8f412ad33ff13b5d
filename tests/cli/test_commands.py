"""The documented commands on real digits, in processes of their own and in this one."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import distillers
from distillers.cli import main as cli
from distillers.files import write_atomically

ROOT = Path(__file__).parents[2]
TEACHER = ["--dataset", "digits", "--model", "resnet8", "--batch_size", "128", "--trial", "0"]
STUDENT = ["--dataset", "digits", "--model_s", "resnet8", "--batch_size", "128", "--trial", "0"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # bits depend on the number
PATH_T = "./save/teachers/models/resnet8_vanilla/resnet8_best.pth"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a teacher of one epoch, made by the documented command."""
    folder = tmp_path_factory.mktemp("home")
    done = command(folder, "train_teacher.py", *TEACHER, "--epochs", "1")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def there(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def command(folder, script, *args, **kwargs):
    words = [sys.executable, str(ROOT / script), *args]
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, env=ONE_THREAD, timeout=250, **kwargs
    )


def run_folder(folder, start="S_"):
    found = [p for p in folder.rglob(f"{start}*") if p.is_dir()]
    assert len(found) == 1, found
    return found[0]


def saved(path):
    return torch.load(path, weights_only=True)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_teacher_lies_where_the_documented_command_looks(home):
    assert (home / PATH_T).is_file()
    folder = (home / PATH_T).resolve().parent
    assert folder.name.startswith("resnet8_vanilla_digits_trial_0_")
    names = {p.name for p in folder.iterdir()}
    expected = {"config.json", "environment.json", "metrics.jsonl", "tensorboard"}
    expected |= {
        "test_best_metrics.json",
        "parameters.json",
        "resnet8_best.pth",
        "resnet8_last.pth",
    }
    assert expected <= names
    best = json.loads((folder / "test_best_metrics.json").read_text())
    assert set(best) == {"test_loss", "test_acc", "test_acc_top5", "epoch"}
    parameters = json.loads((folder / "parameters.json").read_text())
    assert {"Total params", "Total time", "batch_size", "model"} <= set(parameters)
    checkpoint = saved(home / PATH_T)
    assert {"epoch", "model", "best_acc"} <= set(checkpoint)


def test_tensorboard_has_the_documented_scalars(home):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str((home / PATH_T).resolve().parent / "tensorboard"))
    events.Reload()
    documented = {"train_loss", "train_acc", "test_loss", "test_acc", "test_acc_top5", "lr"}
    assert documented | {"train_ce"} <= set(events.Tags()["scalars"])
    assert events.Scalars("test_acc")[0].step == 1


def test_what_is_saved_scores_what_was_reported(there, capsys):
    flags = [*STUDENT, "--path_t", PATH_T, "--distill", "kd", "-c", "0.1", "-d", "0.9", "-b", "0"]
    assert cli.run("student", [*flags, "--epochs", "2", "--save_dir", "exact"]) == 0
    folder = run_folder(there / "exact")
    reported = json.loads((folder / "test_best_metrics.json").read_text())
    capsys.readouterr()
    assert cli.run("evaluate", [str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = dict(line.split()[:2] for line in lines if line.startswith("test_"))
    for name in ("test_acc", "test_acc_top5", "test_loss"):
        assert float(printed[name]) == reported[name]


@pytest.mark.parametrize("name", ["softce", "bce"])
def test_a_student_learns_from_mixed_images(name, there, capsys):
    flags = [*STUDENT, "--path_t", PATH_T, "--epochs", "1", "--mixup", "0.2", "--cutmix", "1"]
    more = ["--smoothing", "0.1"] if name == "softce" else ["--bce_loss"]
    assert cli.run("student", [*flags, *more, "--save_dir", f"mixed_{name}"]) == 0
    assert f"loss: 1 {name} + 1 kd" in capsys.readouterr().out
    folder = run_folder(there / f"mixed_{name}")
    row = json.loads((folder / "metrics.jsonl").read_text())
    assert {f"train_{name}", "train_kd"} <= set(row)


def test_a_cache_serves_plain_crops_and_fixed_views_of_augmented_images(there, capsys):
    flags = [*STUDENT, "--path_t", PATH_T, "--model_s", "tests.nets:tiny", "--epochs", "2"]
    flags += ["--views", "2", "--teacher_cache", "auto", "--skip_validation", "--reprob", "0.2"]

    def run(folder: str, *more: str) -> str:
        assert cli.run("student", [*flags, "--save_dir", folder, *more]) == 0
        return capsys.readouterr().out

    weak = ("--aa", "rand-m9", "--teacher_view", "weak")
    assert "augmentation: rand-m9, reprob 0.2, the teacher gets the" in run("cached", *weak)
    again = run("cached", "--aa", "trivial", "--teacher_view", "weak")
    assert "the teacher ran for 0 images" in again  # the crops are the same
    assert "the teacher ran for 0 images" not in run("cached", "--aa", "rand-m9")
    assert len(list((there / "cached" / "teacher_cache").iterdir())) == 2


def test_a_killed_run_resumes_to_the_same_bits(there):
    flags = [*STUDENT, "--path_t", PATH_T, "--distill", "kd", "--epochs", "4"]
    whole = command(there, "train_student.py", *flags, "--save_dir", "whole")
    assert whole.returncode == 0, whole.stderr
    words = [sys.executable, str(ROOT / "train_student.py"), *flags, "--save_dir", "killed"]
    process = subprocess.Popen(
        words, cwd=there, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list((there / "killed").rglob("resnet8_last.pth")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = run_folder(there / "killed")
    reached = saved(folder / "resnet8_last.pth")["epoch"]
    assert 1 <= reached < 4
    assert command(there, "train_student.py", *flags, "--save_dir", "killed").returncode == 2
    again = command(there, "train_student.py", *flags, "--save_dir", "killed", "--resume")
    assert again.returncode == 0, again.stderr
    a, b = (saved(run_folder(there / n) / "resnet8_last.pth") for n in ("whole", "killed"))
    assert same(a["model"], b["model"])
    assert a["epoch"] == b["epoch"] == 4
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2, 3, 4]


def test_trials_differ_and_repeat(there):
    states = []
    for save_dir, trial in (("a", "0"), ("b", "0"), ("c", "1")):
        flags = [
            *STUDENT[:-1],
            trial,
            "--path_t",
            str(Path(PATH_T).parent),
            "--epochs",
            "1",
            "--skip_validation",
        ]
        assert cli.run("student", [*flags, "--save_dir", save_dir]) == 0
        states.append(saved(run_folder(there / save_dir) / "resnet8_best.pth")["model"])
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_nothing_is_overwritten_silently(there, capsys):
    flags = [*STUDENT, "--path_t", PATH_T, "--epochs", "1", "--save_dir", "twice"]
    assert cli.run("student", flags) == 0
    folder = run_folder(there / "twice")
    before = (folder / "resnet8_best.pth").stat().st_mtime_ns
    assert cli.run("student", flags) == 2
    assert {"--resume", "--overwrite"} <= set(capsys.readouterr().err.replace(";", "").split())
    assert (folder / "resnet8_best.pth").stat().st_mtime_ns == before
    assert cli.run("student", [*flags, "--overwrite"]) == 0
    assert (folder / "resnet8_best.pth").stat().st_mtime_ns > before


def test_the_best_epoch_follows_the_protocol(there, capsys):
    """simkd: the best test epoch; crd: the last; with held-out images: the best of those."""
    rules = {"simkd": "test_acc", "crd": "epoch"}
    for protocol, rule in rules.items():
        flags = [*TEACHER, "--epochs", "3", "--protocol", protocol, "--save_dir", protocol]
        assert cli.run("teacher", flags) == 0
        check_best(there / protocol, rule, capsys.readouterr().out)
    flags = [*TEACHER, "--epochs", "3", "--val_fraction", "0.2", "--save_dir", "held"]
    assert cli.run("teacher", flags) == 0
    check_best(there / "held", "val_acc", capsys.readouterr().out)


def check_best(save_dir, rule, printed):
    folder = run_folder(save_dir, "resnet8_vanilla_")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: row[rule])
    assert json.loads((folder / "test_best_metrics.json").read_text())["epoch"] == best["epoch"]
    assert saved(folder / "resnet8_best.pth")["epoch"] == best["epoch"]
    assert f"reported: test acc {best['test_acc']:.2f}, epoch {best['epoch']}" in printed


WRONG = {
    "teacher --model resnet21": "no network 'resnet21', did you mean",
    "teacher --dataset digit": "no dataset 'digit', did you mean 'digits'",
    "teacher --batch_size 0": "--batch_size is 0; it must be at least 1",
    "teacher --epochs 0": "--epochs is 0",
    "teacher --learning_rate -1": "--learning_rate is -1.0; it must be greater than 0",
    "teacher --weight_decay nan": "--weight_decay is nan",
    "teacher --val_fraction 1": "--val_fraction is 1.0",
    "teacher --lr_decay_epochs 3,2": "--lr_decay_epochs is (3, 2); it must be increasing",
    "teacher --lr_decay_epochs=-5,0": "--lr_decay_epochs is (-5, 0); it must be increasing",
    "teacher --trial=-1": "--trial is -1; it must be 0 to",
    "teacher --model torchvision:alexnet": "torchvision:alexnet cannot take images of 32 x 32 (",
    "teacher --model torchvision:vit_b_16 --image_size 40": "torchvision:vit_b_16 cannot be built",
    "teacher --model tests.nets:seven": "gives (2, 7) for 2 images",
    "teacher --gpu_id 7": "--gpu_id 7 was asked for, but",
    "teacher --gpu_id x": "--gpu_id names 'x'; it must be numbers of GPUs, or cpu",
    "teacher --on_nan skip --accumulate 2": "--on_nan skip undoes single batches",
    "teacher --sync_bn": "--sync_bn needs GPUs",
    "teacher --multiprocessing-distributed --gpu_id 0,1": "there is no usable GPU",
    "teacher --multiprocessing-distributed --dist-url host:1": "it must be tcp://HOST:PORT",
    "teacher --dali gpu": "--dali gpu ",  # not installed, no GPU, or nothing to decode
    "teacher --smoothing 1": "--smoothing is 1.0; it must be in [0, 1)",
    "teacher --mixup=-1": "--mixup is -1.0; it must be 0 or more",
    "teacher --mixup_prob 2": "--mixup_prob is 2.0; it must be in [0, 1]",
    "teacher --mixup_prob 0.5": "--mixup_prob needs --mixup or --cutmix",
    "teacher --mixup_off_epoch 3 --smoothing 0.1": "--mixup_off_epoch needs --mixup or --cutmix",
    "transfer --path_s x --cutmix 1": "--bce_loss are not supported for a transfer",
    "student --path_t PATH_T --cutmix 1 --teacher_cache auto": "sees other images in every epoch",
    "student --path_t PATH_T --mixup 1 --distill dkd": "DKD reads hard labels",
    "student --path_t PATH_T --mixup 1 --distill crd+kd": "CRD reads hard labels",
    "student --path_t PATH_T --loss tests.nets:TwoViews --teacher_cache auto": "TwoViews also",
    "teacher --aa rand-m11": "the magnitude m is 11; it must be from 0 to 10; rand-m11-mmax11",
    "teacher --aa randaug": "no policy in --aa 'randaug', did you mean 'rand'",
    "teacher --scale 0.9,0.2": "--scale is 0.9,0.2; it must be two numbers up to 1, above 0",
    "teacher --ratio 2 1": "--ratio is 2,1; it must be two numbers, above 0, the smaller one first",
    "teacher --reprob 1.5": "--reprob is 1.5; it must be in [0, 1]",
    "teacher --hflip=-0.1": "--hflip is -0.1; it must be in [0, 1]",
    "teacher --color_jitter=-1": "--color_jitter is -1.0; it must be 0 or more",
    "student --path_t PATH_T --aug_repeats 3 --views 2": "--aug_repeats 3 shows several",
    "student --path_t PATH_T --scale 0.5,1 --teacher_cache auto": "or with --scale or --ratio",
    "transfer --path_s x --aa trivial": "it cannot have trivial; add --augment",
    "student --path_t PATH_T --strong_aa rnd-m9": "no policy in --strong_aa 'rnd', did you mean",
    "teacher --resume --overwrite": "exclude each other",
    "teacher --config none.yml": "cannot read --config none.yml",
    "student": "--path_t is missing",
    "student --path_t no/such_best.pth": "the folder",
    "student --path_t PATH_T --distill kdd": "no loss 'kdd', did you mean 'kd'",
    "student --path_t PATH_T --model_s resnet9": "no network 'resnet9', did you mean",
    "student --path_t PATH_T -b 3": "--beta 3 has no loss to weight",
    "student --path_t PATH_T -c 0 -d 0": "every weight is zero",
    "student --path_t PATH_T -d -1": "--div is -1.0; it must be 0 or more",
    "student --path_t PATH_T --kd_T 0": "KD: temperature is 0.0; it must be greater than 0",
    "student --path_t PATH_T --distill crd --nce_k 0": "CRD: negatives is 0; it must be",
    "student --path_t PATH_T --option kd": "must read LOSS.OPTION=VALUE",
    "student --path_t PATH_T --option crd.dim=3": "this run does not use crd",
    "student --path_t PATH_T --option kd.tmp=3": "no option of KD 'tmp'",
    "student --path_t PATH_T --model_t resnet20": "is a resnet8, not a resnet20",
    "student --path_t PATH_T --loss nowhere:Loss": "cannot import the loss",
    "student --path_t PATH_T --loss .nowhere:Loss": "cannot import the loss",
    "student --path_t PATH_T --loss tests.nets:PerImage": "the loss perimage returned (2,)",
    "student --path_t PATH_T --distill=": '--distill is ""; it must be a name',
    "student --path_t PATH_T --model_s torchvision:alexnet": "torchvision:alexnet cannot take",
    "evaluate nowhere.pth": "there is no file",
    "evaluate PATH_T --image_size -5": "--image_size is -5; it must be at least 8",
    "evaluate PATH_T --val_fraction 7": "--val_fraction is 7.0",
    "report . --format": "--format names nothing to write",
    "bench --methods kd --out nowhere/x.json": "but the folder nowhere does not exist",
    "studnt": "no command 'studnt', did you mean 'student'",
}


@pytest.mark.parametrize("words", WRONG)
def test_bad_input_is_told_before_anything_is_written(there, capsys, words):
    name, *args = words.replace("PATH_T", PATH_T).split()
    before = sorted(there.rglob("*"))
    base = {"teacher": TEACHER, "student": STUDENT}.get(name, [])
    saving = ["--save_dir", "stray"] if base else []
    assert cli.run(name, [*base, *args, *saving]) == 2
    assert WRONG[words] in capsys.readouterr().err
    assert sorted(there.rglob("*")) == before


def test_a_missing_teacher_is_told_before_data_is_fetched(there, capsys, monkeypatch):
    monkeypatch.setattr("distillers.data.source_of", lambda *_: pytest.fail("read the data"))
    assert cli.run("student", [*STUDENT, "--path_t", "no/such_best.pth"]) == 2
    assert "there is no file no/such_best.pth" in capsys.readouterr().err


def test_an_unknown_flag_names_the_nearest(there):
    done = command(there, "train_student.py", "--distil", "kd")
    assert done.returncode == 2
    assert "--distill" in done.stdout + done.stderr


def test_a_teacher_of_other_classes_is_refused(there, capsys):
    from distillers import models

    folder = there / "other" / "resnet8_vanilla"
    folder.mkdir(parents=True)
    path = folder / "resnet8_best.pth"
    torch.save({"model": models.create("resnet8", num_classes=7).state_dict()}, path)
    assert cli.run("student", [*STUDENT, "--path_t", str(path)]) == 2
    assert "7 classes, the data set has 10" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_the_last_good_checkpoint(number, there, capsys, monkeypatch):
    from distillers.checkpoints import io as checkpoint

    flags = [*TEACHER, "--epochs", "3", "--save_dir", f"full{number}", "--protocol", "crd"]
    write, count = write_atomically, {}

    def fill_up(path, content, *previous):
        count[path.name] = count.get(path.name, 0) + 1
        if path.name == "resnet8_last.pth" and count[path.name] == 2:
            raise OSError(number, os.strerror(number))
        write(path, content, *previous)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", fill_up)
        assert cli.run("teacher", flags) == 2
    assert "the disk is full" in capsys.readouterr().err
    folder = run_folder(there / f"full{number}", "resnet8_vanilla_")
    assert saved(folder / "resnet8_last.pth")["epoch"] == 1
    assert cli.run("teacher", [*flags, "--resume"]) == 0
    assert saved(folder / "resnet8_last.pth")["epoch"] == 3


def test_flags_come_from_a_file_and_the_command_line_wins(there):
    (there / "flags.yml").write_text("epochs: 2\nlr_decay_epochs: [1]\nsave_dir: from_file\n")
    assert cli.run("teacher", [*TEACHER, "--config", "flags.yml", "--epochs", "1"]) == 0
    folder = run_folder(there / "from_file", "resnet8_vanilla_")
    config = json.loads((folder / "config.json").read_text())
    assert (config["epochs"], config["lr_decay_epochs"]) == (1, [1])


def test_a_runs_own_flags_are_a_config_file(there):
    flags = [*STUDENT, "--path_t", PATH_T, "--epochs", "1", "--distill", "crd"]
    flags += ["--option", "crd.negatives=100", "crd.dim=16", "--lr_decay_epochs", ""]
    assert cli.run("student", [*flags, "--save_dir", "of_flags"]) == 0
    config = run_folder(there / "of_flags") / "config.json"
    assert cli.run("student", ["--config", str(config), "--save_dir", "of_file"]) == 0
    first, second = (run_folder(there / name) for name in ("of_flags", "of_file"))
    assert first.name == second.name  # the same digest of flags
    (there / "bytes.yml").write_bytes(b"\xff\xfe\x00")
    assert cli.run("teacher", [*TEACHER, "--config", "bytes.yml"]) == 2


def test_methods_may_be_written_in_other_letters(there, capsys):
    flags = [*STUDENT, "--path_t", PATH_T, "--epochs", "1", "--distill", "AT"]
    assert cli.run("student", [*flags, "--save_dir", "letters"]) == 0
    assert "1000 at" in capsys.readouterr().out
    assert "_at_" in run_folder(there / "letters").name


def test_a_run_is_not_gone_on_with_under_another_teacher(there, capsys):
    for trial, epochs in (("3", "1"), ("4", "2")):
        flags = [*TEACHER[:-1], trial, "--epochs", epochs, "--save_dir", "moving"]
        assert cli.run("teacher", flags) == 0
        newest = there / "moving/teachers/models/resnet8_vanilla"
        flags = [*STUDENT, "--path_t", str(newest), "--epochs", "1", "--save_dir", "moving"]
        status = cli.run("student", [*flags, "--skip_validation", "--resume"])
        if trial == "3":
            assert status == 0
            assert "nothing to resume, the run starts anew" in capsys.readouterr().out
    assert status == 2
    assert "began with another network than" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told(there, capsys):
    (there / "a_file").write_text("")
    assert cli.run("report", ["save", "--out", "a_file"]) == 2
    assert "error: a_file: File exists." in capsys.readouterr().err
    (there / "x.json").write_text("mine")
    words = [PATH_T, "--format", "torch_export", "--out", "x.pt2"]
    assert cli.run("export", words) == 2
    assert "x.json exists" in capsys.readouterr().err


def test_home_is_found(monkeypatch, tmp_path):
    from distillers.config.teacher import TeacherConfig

    monkeypatch.setenv("HOME", str(tmp_path))
    assert TeacherConfig(save_dir="~/runs").folder().is_relative_to(tmp_path / "runs")


def test_an_alias_that_is_a_real_folder_is_left_alone(there, capsys):
    (there / "real/teachers/models/resnet8_vanilla").mkdir(parents=True)
    assert cli.run("teacher", [*TEACHER, "--epochs", "1", "--save_dir", "real"]) == 0
    assert "left unchanged" in capsys.readouterr().out


def test_help_comes_without_torch():
    names = ("teacher", "student", "transfer", "evaluate", "figures", "export", "list", "cache")
    for name in names:
        code = f"import sys; from distillers.cli import main as cli; cli.run({name!r}, ['--help'])"
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True
        )
        assert done.returncode == 0
        assert "usage: " in done.stdout
        assert " torch\n" not in done.stderr, name


def test_help_takes_less_than_half_a_second():
    command = [sys.executable, "-m", "distillers", "student", "--help"]
    times = []
    for _ in range(3):  # CPU time, as other programs may be running
        before = os.times()
        subprocess.run(command, capture_output=True, check=True)
        after = os.times()
        times.append(after.children_user + after.children_system)
        times[-1] -= before.children_user + before.children_system
    assert min(times) < 0.5


def test_the_package_runs_as_the_command():
    words = [sys.executable, "-m", "distillers", "--version"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"distillers {distillers.__version__}\n")


def test_list_shows_methods_networks_and_data(capsys):
    assert cli.run("list", []) == 0
    text = capsys.readouterr().out
    for name in ("kd", "resnet32x4", "wrn_40_2", "digits", "cifar100"):
        assert f"  {name} " in text or f"  {name}\n" in text
    assert "278,324" in text  # resnet20's parameters


def test_a_loss_for_full_batches_leaves_out_the_last_under_any_protocol(there, capsys):
    """1,297 images are no multiple of 128: SemCKD would refuse the last batch."""
    flags = [*STUDENT, "--path_t", PATH_T, "--epochs", "1", "--distill", "semckd"]
    assert cli.run("student", [*flags, "--protocol", "crd", "--save_dir", "full_batches"]) == 0
    folder = run_folder(there / "full_batches")
    assert (folder / "resnet8_best.pth").exists()


def test_a_last_batch_of_one_image_is_left_out_and_said(there, capsys):
    """1,297 = 16 * 81 + 1: SRRL's batch normalization cannot take one pooled image."""
    flags = [*STUDENT, "--path_t", PATH_T, "--epochs", "1", "--distill", "srrl"]
    flags += ["--protocol", "crd", "--batch_size", "16", "--save_dir", "last_of_one"]
    assert cli.run("student", flags) == 0
    assert "the last image of an epoch is left out" in capsys.readouterr().out
    folder = run_folder(there / "last_of_one")
    assert (folder / "resnet8_best.pth").exists()
