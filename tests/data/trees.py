"""Small trees of images in the layouts of the field."""

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n01443537", "n01484850")


def picture(seed, height=48, width=60):
    """A smooth random picture, so that JPEG keeps it nearly as it is."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def tree(root, classes=WNIDS, train=6, val=4):
    """root/train/CLASS/*.JPEG and root/val/CLASS/*.JPEG."""
    for part, count in (("train", train), ("val", val)):
        for number, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                seed = 1000 * number + i + (500 if part == "val" else 0)
                picture(seed, 40 + i, 50 + number).save(folder / f"{name}_{i}.JPEG", quality=95)
    return root


def tiny_tree(root, classes=WNIDS):
    """Tiny ImageNet's layout."""
    for number, name in enumerate(classes):
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        for i in range(4):
            picture(10 * number + i, 64, 64).save(folder / f"{name}_{i}.JPEG")
        (folder.parent / f"{name}_boxes.txt").write_text("boxes")
    images = root / "val" / "images"
    images.mkdir(parents=True)
    lines = []
    for i in range(6):
        picture(100 + i, 64, 64).save(images / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{classes[i % 3]}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root
