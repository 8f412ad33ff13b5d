"""Operations on batches of images, each with its own argument, as PIL defines them for one image.

All take images (n, c, h, w) uint8 with c 1 or 3, and arguments (n, a) float32 on the same device,
and return new images. None waits for the device.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

Kernel = Callable[[Tensor, Tensor], Tensor]
GREY = (19595, 38470, 7471)  # shares of red, green and blue in 65536, as PIL has them
BLUR_REACH = 6  # pixels, three standard deviations of the strongest blur


def solarize(images: Tensor, argument: Tensor) -> Tensor:
    """Invert all values from a threshold on; the argument is the threshold."""
    return torch.where(images < _per_image(argument), images, 255 - images)


def solarize_add(images: Tensor, argument: Tensor) -> Tensor:
    """Add a number to all values below 128; the argument is the number."""
    return images + (images < 128) * _per_image(argument).to(torch.uint8)  # at most 127 + 128


def posterize(images: Tensor, argument: Tensor) -> Tensor:
    """Keep the most significant bits of each value; the argument is their number, 0 to 8."""
    step = torch.exp2(8 - _per_image(argument).clamp(0, 8)).to(torch.int32)
    return images & (256 - step).to(torch.uint8)


def brightness(images: Tensor, argument: Tensor) -> Tensor:
    """Multiply all values by the argument."""
    return _blend(torch.zeros((), device=images.device), images, argument)


def contrast(images: Tensor, argument: Tensor) -> Tensor:
    """Scale the distance of all values from the mean grey; the argument is the factor."""
    mean = _grey(images).float().mean((1, 2, 3), keepdim=True)
    return _blend((mean + 0.5).floor_(), images, argument)


def color(images: Tensor, argument: Tensor) -> Tensor:
    """Scale the distance of all values from the grey image; the argument is the factor."""
    return _blend(_grey(images), images, argument)


def sharpness(images: Tensor, argument: Tensor) -> Tensor:
    """Scale the distance of all values from a smoothed image; the argument is the factor."""
    return _blend(_smooth(images), images, argument)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch the values of each channel to 0 to 255."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = (high - low).float()
    # Exact: quotients of such small whole numbers are never rounded up to a whole number.
    stretched = (images - low).float().mul_(255).div_(span.clamp(min=1)).to(torch.uint8)
    return torch.where(span > 0, stretched, images)


def gaussian_blur(images: Tensor, argument: Tensor) -> Tensor:
    """Blur by a Gaussian; the argument is its standard deviation in pixels, above 0."""
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=images.device)
    weights = torch.exp(-0.5 * (offsets / argument[:, :1]).square())
    weights = weights / weights.sum(1, keepdim=True)
    across = _weighted_sum(images.float(), weights)
    down = _weighted_sum(across.transpose(2, 3), weights).transpose(2, 3)
    return (down + 0.5).to(torch.uint8)


def affine(images: Tensor, argument: Tensor, fill: Tensor) -> Tensor:
    """Move each pixel by an affine map, and fill what comes from outside of the image.

    The argument has six numbers a to f: the pixel at (x, y), counted from the corner of the image,
    is read at (a x + b y + c, d x + e y + f), bilinearly between the centers of four pixels. `fill`
    (c, 1, 1) is the value of pixels from outside.
    """
    height, width = images.shape[-2:]
    y = torch.arange(height, device=images.device)[:, None, None] + 0.5
    x = torch.arange(width, device=images.device)[:, None] + 0.5
    scale = argument.new_tensor([[2 / width], [2 / height]])
    by_x, by_y, start = (argument.view(-1, 2, 3) * scale)[:, None, None].unbind(-1)
    grid = by_x * x + (by_y * y + (start - 1))  # -1 and 1 are the edges of the image
    found = F.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    across, down = grid.unbind(-1)
    inside = (across >= -1) & (across < 1) & (down >= -1) & (down < 1)
    kept = torch.lerp(fill.float(), found, inside[:, None].float())
    return kept.add_(0.5).to(torch.uint8)


def cutout(images: Tensor, argument: Tensor, fill: Tensor) -> Tensor:
    """Fill a square with `fill` (c, 1, 1).

    The argument is its side, and the center across and down, all relative to the sides of the
    image.
    """
    height, width = images.shape[-2:]
    side, across, down = argument[..., None, None].unbind(1)
    y = (torch.arange(height, device=images.device)[:, None] + 0.5) / height
    x = (torch.arange(width, device=images.device) + 0.5) / width
    cut = ((x - across).abs() < side / 2) & ((y - down).abs() < side / 2)
    return torch.where(cut[:, None], fill, images)


def kernels(fill: Tensor) -> dict[str, Kernel]:
    """Return all operations by name; pixels from outside of the image are `fill` (c,) uint8."""
    from torchvision.transforms.v2.functional import equalize  # is slow to import

    fill = fill.view(-1, 1, 1)
    return {
        "affine": partial(affine, fill=fill),
        "autocontrast": autocontrast,
        "brightness": brightness,
        "color": color,
        "contrast": contrast,
        "cutout": partial(cutout, fill=fill),
        "equalize": lambda images, _: equalize(images),
        "gaussian_blur": gaussian_blur,
        "hflip": lambda images, _: images.flip(-1),
        "invert": lambda images, _: 255 - images,
        "posterize": posterize,
        "sharpness": sharpness,
        "solarize": solarize,
        "solarize_add": solarize_add,
        "vflip": lambda images, _: images.flip(-2),
    }


def _weighted_sum(images: Tensor, weights: Tensor) -> Tensor:
    """Return sums of images (n, c, h, w) shifted by -k to k pixels, with weights (n, 2 k + 1).

    What is outside repeats the first and the last column.
    """
    reach, width = weights.shape[1] // 2, images.shape[-1]
    padded = F.pad(images, (reach, reach, 0, 0), mode="replicate")
    total = torch.zeros_like(images)
    for start, weight in enumerate(weights.unbind(1)):
        total.addcmul_(padded[..., start : start + width], weight[:, None, None, None])
    return total


def _per_image(argument: Tensor) -> Tensor:
    return argument[:, :1, None, None]


def _blend(start: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Return start + factor (images - start), cut to 0 to 255 and rounded down as PIL does it."""
    start = start.float()
    return (images - start).mul_(_per_image(factor)).add_(start).clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """Return the grey images, (n, 1, h, w), whole numbers."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.to(torch.int32).unbind(1)
    return ((GREY[0] * red + GREY[1] * green + GREY[2] * blue + 2**15) >> 16)[:, None]


def _smooth(images: Tensor) -> Tensor:
    """Return the mean of 3 x 3 pixels, the middle one five times; the border is unchanged."""
    wide = images.to(torch.int32)
    across = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
    total = across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :]
    inner = (total + 4 * wide[..., 1:-1, 1:-1]).float().div_(13).add_(0.5).floor_()
    smoothed = images.float()
    smoothed[..., 1:-1, 1:-1] = inner
    return smoothed
