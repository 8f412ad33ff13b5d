"""What a pack with the largest logits only costs a student in accuracy, on CIFAR-10.

    python benchmarks/pack_students.py --data_dir data --seeds 0 1 2

KD (CE .1 + KL .9, T 4) from resnet20, trained for 8 epochs, to resnet8, for 6 epochs, both on the
first 5,000 images with the schedule of `benchmarks/views.py`, from packs of 4 views with the 1, 2
and 5 largest of 10 logits and with all; and without a teacher.
Everything runs in one thread. Each run's accuracy on the 10,000 test images after the last epoch
goes to "students" in `benchmarks/results/pack.json` when it ends; runs that are there already are
left out.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from views import BATCH, CPU, ROOT, accuracy, build_hparams, load_or_train_teacher

from distillers import models
from distillers.data import ImageSet, load
from distillers.distillation.build import distil
from distillers.distillation.cache.loader import CachedTeacherLoader
from distillers.distillation.cache.pack import Pack
from distillers.distillation.cache.pack_write import PackOptions, write_pack
from distillers.distillation.task import Supervised
from distillers.losses import CE
from distillers.training.trainer import fit

VIEWS, KEPT = 4, (None, 5, 2, 1)
TEACHER_EPOCHS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--work", default="save/packs", help="for the teacher and the packs")
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results/pack.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    work, out = Path(args.work), Path(args.out)
    work.mkdir(parents=True, exist_ok=True)
    images = load("cifar10", args.data_dir, download=False)
    few = images.keep(torch.arange(args.images))
    teacher = load_or_train_teacher(few, work / "teacher.pt", TEACHER_EPOCHS)
    content = json.loads(out.read_text()) if out.exists() else {}
    found = content.setdefault("students", {"teacher": accuracy(teacher, images), "runs": []})
    logits = logits_of(teacher, few)
    for seed in args.seeds:  # outermost, so that a stopped benchmark has whole comparisons
        for kept in (*KEPT, 0):
            asked = {"images": args.images, "epochs": args.epochs, "top_k": kept, "seed": seed}
            if any(asked.items() <= run.items() for run in found["runs"]):
                continue
            pack = packed(work / "pack", logits, few, kept) if kept != 0 else None
            run = asked | {"test_acc": train_student(few, teacher, pack, args.epochs, seed)}
            print(run, flush=True)
            found["runs"].append(run)
            out.write_text(json.dumps(content, indent=2) + "\n")
    print_table(found["runs"])


@torch.inference_mode()
def logits_of(teacher: nn.Module, images: ImageSet) -> Tensor:
    """Return the logits (V N, k) of every view of every image, in the order of the views."""
    loader = images.train_loader(BATCH, seed=0, drop_last=False, device=CPU, views=VIEWS)
    found = torch.zeros(VIEWS * len(images.train_labels), 10)
    for epoch in range(1, VIEWS + 1):
        for batch in loader.epoch(epoch):
            found[batch.view] = teacher(batch.images)
    return found


def packed(folder: Path, logits: Tensor, images: ImageSet, top_k: int | None) -> Pack:
    """Write a pack, and read it."""
    shutil.rmtree(folder, ignore_errors=True)
    values = {"teacher_logits": logits}
    write_pack(folder, values, images, VIEWS, PackOptions(top_k), {"model": "resnet20"})
    return Pack(folder)


def train_student(
    images: ImageSet, teacher: nn.Module, pack: Pack | None, epochs: int, seed: int
) -> float:
    """Train a student from a pack, or from labels alone without one, and return its accuracy."""
    torch.manual_seed(seed)
    net, sample = models.create("resnet8", num_classes=10), images.sample(CPU)
    task: Any = Supervised(net, CE())
    train = images
    if pack is not None:
        task = distil(net, teacher, {"ce": 0.1, "kd": 0.9}, images=sample)
        train = pack.align(images)
    task.to(memory_format=torch.channels_last)
    loader = train.train_loader(BATCH, seed=seed, drop_last=False, device=CPU, views=VIEWS)
    loader = loader if pack is None else CachedTeacherLoader(loader, pack)
    hparams = build_hparams(epochs)
    fit(task, loader, hparams, evaluate=lambda _: {}, on_epoch_end=lambda *_: None)
    return accuracy(net, images)


def print_table(runs: list[dict[str, Any]]) -> None:
    """Print mean and standard deviation for each kind of pack."""
    groups: dict[Any, list[float]] = {}
    for run in runs:
        groups.setdefault(run["top_k"], []).append(run["test_acc"])
    for kept, found in groups.items():
        name = {None: "all logits", 0: "no teacher"}.get(kept, f"top {kept}")
        spread = statistics.stdev(found) if len(found) > 1 else float("nan")
        print(f"{name}: {statistics.mean(found):.2f} +- {spread:.2f} (n = {len(found)})")


if __name__ == "__main__":
    main()
