"""Side by side with a loop of timm's functions: speed, memory and accuracy of KD on photographs.

    python benchmarks/timm_loop.py --data_dir photos --image_size 128 --epochs 6 --weights FILE

Each case trains the same student from the same teacher on the same images, once by the documented
command and once by a loop that does what timm's `train.py` does, with timm's own data sets,
loaders, networks, optimizers, schedulers and meters. Each training is a separate process; both
sides take turns. Writes images per second, peak memory and final accuracy to
`benchmarks/results/timm_loop.json`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]
CASES = {
    "CNN from scratch": {"model": "mobilenetv3_small_050", "opt": "nesterov", "rate": 0.05},
    "ViT from scratch": {"model": "vit_tiny_patch16_224", "opt": "adamw", "rate": 1e-3},
    "CNN fine-tuned": {"model": "tf_efficientnet_lite0", "opt": "nesterov", "rate": 0.01},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="photos", help="with train/CLASS and val/CLASS")
    parser.add_argument("--save_dir", default="save/timm_loop")
    parser.add_argument("--cases", nargs="+", default=[*CASES], choices=CASES)
    parser.add_argument("--teacher", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", help="pretrained weights of the teacher's network")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--timm", help=argparse.SUPPRESS)  # JSON of one training by timm's loop
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results/timm_loop.json"))
    args = parser.parse_args()
    if args.timm:
        print(json.dumps(timm_loop(args, **json.loads(args.timm))))
        return
    teacher = train_teacher(args)
    found: dict[str, dict[str, list[dict]]] = {name: {} for name in args.cases}
    for seed in args.seeds:
        for name in args.cases:
            pretrained = args.weights if name == "CNN fine-tuned" else None
            case = {**CASES[name], "teacher": teacher, "seed": seed, "pretrained": pretrained}
            for side, run in (("distillers", run_ours), ("timm", run_timm)):
                found[name].setdefault(side, []).append(run(args, case))
                print(name, side, found[name][side][-1], flush=True)
                write(args, found)
    print(table(json.loads(Path(args.out).read_text())))


def ours(args: argparse.Namespace, kind: str, flags: list[str]) -> tuple[Path, float, float]:
    """Train by the documented command; return the weights, peak memory in MiB and accuracy."""
    shared = ["--dataset", "folder", "--data_dir", args.data_dir, "--save_dir", args.save_dir]
    shared += ["--recipe", "published", "--gpu_id", "cpu", "--protocol", "crd", "--overwrite"]
    for name in ("image_size", "batch_size", "num_workers"):
        shared += [f"--{name}", str(getattr(args, name))]
    out, memory = process([str(ROOT / f"train_{kind}.py"), *shared, *flags])
    best = Path(out.splitlines()[-1].removeprefix("saved "))
    last = json.loads((best.parent / "metrics.jsonl").read_text().splitlines()[-1])
    return best, memory, last["test_acc"]


def train_teacher(args: argparse.Namespace) -> str:
    flags = ["--model", f"timm:{args.teacher}", "--epochs", str(args.epochs), "--trial", "0"]
    flags += ["--learning_rate", "0.01", *(["--pretrained", args.weights] if args.weights else [])]
    return str(ours(args, "teacher", flags)[0])


def run_ours(args: argparse.Namespace, case: dict) -> dict:
    flags = ["--model_s", f"timm:{case['model']}", "--path_t", case["teacher"], "--distill", "kd"]
    flags += ["--opt", case["opt"], "--learning_rate", str(case["rate"]), "--sched", "cosine"]
    flags += [
        "--epochs",
        str(args.epochs),
        "--trial",
        str(case["seed"]),
        "--cls",
        "1",
        "--div",
        "1",
    ]
    flags += ["--skip_validation", "--lr_decay_epochs", ""]
    flags += ["--pretrained", case["pretrained"]] if case["pretrained"] else []
    best, memory, accuracy = ours(args, "student", flags)
    rows = [json.loads(row) for row in (best.parent / "metrics.jsonl").read_text().splitlines()]
    rate = statistics.median(row["images_per_second"] for row in rows)
    return {"images_per_second": rate, "peak_mib": memory, "acc": accuracy}


def run_timm(args: argparse.Namespace, case: dict) -> dict:
    words = [__file__, "--timm", json.dumps(case), "--data_dir", args.data_dir]
    for name in ("image_size", "batch_size", "num_workers", "epochs"):
        words += [f"--{name}", str(getattr(args, name))]
    out, memory = process(words)
    return {**json.loads(out.splitlines()[-1]), "peak_mib": memory}


def process(words: list[str]) -> tuple[str, float]:
    """Run Python; return its output and the peak memory of its largest process in MiB."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed")
    return out, usage.ru_maxrss / 1024


def timm_loop(
    args: argparse.Namespace,
    model: str,
    opt: str,
    rate: float,
    teacher: str,
    seed: int,
    pretrained: str | None,
) -> dict:
    """Train a student as timm's `train.py` does, with a teacher; return speed and accuracy."""
    import timm
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import AverageMeter, accuracy, random_seed

    import distillers

    random_seed(seed)
    expert = distillers.load(teacher)
    shape, names = (3, args.image_size, args.image_size), expert.card["class_names"]
    shared: dict[str, Any] = {"input_size": shape, "batch_size": args.batch_size}
    shared |= {"use_prefetcher": False}
    shared |= {"mean": expert.card["mean"], "std": expert.card["std"]}
    shared |= {"num_workers": args.num_workers, "interpolation": "bilinear"}
    classes = {name: number for number, name in enumerate(names)}  # timm sorts by lower case
    train, val = (
        create_dataset("", root=f"{args.data_dir}/{part}", split=part, class_map=classes)
        for part in ("train", "val")
    )
    loader = create_loader(train, is_training=True, color_jitter=0.0, hflip=0.5, **shared)
    tests = create_loader(val, **shared)
    net = (
        student_of(pretrained, model, len(names), args.image_size)
        if pretrained
        else timm.create_model(model, num_classes=len(names), **sized(model, args.image_size))
    )
    optimizer = create_optimizer_v2(net, opt, lr=rate, weight_decay=5e-4)
    scheduler, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=args.epochs)
    speeds, losses, meter = [], AverageMeter(), AverageMeter()
    for epoch in range(args.epochs):
        net.train()
        scheduler.step(epoch)
        began, seen = time.monotonic(), 0
        for images, labels in loader:
            with torch.no_grad():
                soft = expert(images)
            logits = net(images)
            kd = F.kl_div((logits / 4).log_softmax(1), (soft / 4).softmax(1), reduction="batchmean")
            loss = F.cross_entropy(logits, labels) + 16 * kd
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(labels))
            seen += len(labels)
        speeds.append(seen / (time.monotonic() - began))
        meter = AverageMeter()
        net.eval()
        with torch.inference_mode():
            for images, labels in tests:
                meter.update(float(accuracy(net(images), labels)[0]), len(labels))
    return {"images_per_second": statistics.median(speeds), "acc": meter.avg}


def sized(model: str, image_size: int) -> dict[str, Any]:
    """Return the argument that only networks with positions take."""
    return {"img_size": image_size} if model.startswith("vit") else {}


def student_of(weights: str, model: str, num_classes: int, image_size: int) -> torch.nn.Module:
    """Return a pretrained student; the files are read by this library on both sides."""
    from distillers.checkpoints.initial import build_initial

    named = {"num_classes": num_classes, "image_size": image_size, "log": lambda _: None}
    return build_initial(f"timm:{model}", weights, **named).net


def write(args: argparse.Namespace, found: dict[str, dict[str, list[dict]]]) -> None:
    """Write all results so far, with the ratios of the means."""
    results = {}
    for name, sides in found.items():
        each = {
            side: {key: [round(run[key], 2) for run in runs] for key in runs[0]}
            for side, runs in sides.items()
        }
        if len(each) == 2:
            means = {
                side: {key: statistics.mean(values) for key, values in columns.items()}
                for side, columns in each.items()
            }
            each["ratio"] = {
                key: round(means["distillers"][key] / means["timm"][key], 3)
                for key in ("images_per_second", "peak_mib")
            }
        results[name] = each
    left_out = ("out", "data_dir", "save_dir", "weights", "timm")
    content = {
        "what": "KD by the command and by a loop of timm's functions, a number for each seed",
        "settings": {key: value for key, value in vars(args).items() if key not in left_out},
        "environment": {"machine": platform.machine(), "processors": os.cpu_count()},
        "load": os.getloadavg(),
        "results": results,
    }
    Path(args.out).write_text(json.dumps(content, indent=1) + "\n")


def table(content: dict) -> str:
    """Return the results as a Markdown table, means over the seeds."""
    lines = [
        "| student | images/s | timm's | ratio | peak memory, ratio | accuracy | timm's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in content["results"].items():
        sides = [row["distillers"], row["timm"]]
        speeds = [f"{statistics.mean(side['images_per_second']):.0f}" for side in sides]
        ratios = [f"{row['ratio']['images_per_second']:.1f}", f"{row['ratio']['peak_mib']:.2f}"]
        accuracies = [mean_and_deviation(side["acc"]) for side in sides]
        lines.append(f"| {' | '.join([name, *speeds, *ratios, *accuracies])} |")
    return "\n".join(lines)


def mean_and_deviation(values: list[float]) -> str:
    """Return the mean, with the standard deviation over several seeds."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


if __name__ == "__main__":
    main()
