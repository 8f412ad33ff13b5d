import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distillers.losses import EmbedMatch, MapMatch
from distillers.losses.ops.match import RunningStandardize


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def slowly(s: Tensor, t: Tensor, distance: str) -> Tensor:
    """The distance of two vectors, number by number."""
    cosine = 1 - (s @ t) / (s.square().sum().sqrt() * t.square().sum().sqrt())
    terms = [0.5 * d**2 if abs(d) < 1 else abs(d) - 0.5 for d in (s - t)]
    smooth = torch.stack(terms).mean()
    return {"cosine": cosine, "smooth_l1": smooth, "both": (cosine + smooth) / 2}[distance]


@pytest.mark.parametrize("distance", ["cosine", "smooth_l1", "both"])
@pytest.mark.parametrize("standardize", [False, True])
def test_embeddings_are_compared_by_the_formula(distance, standardize) -> None:
    loss = EmbedMatch(3, 4, distance=distance, standardize=standardize).double()
    student, teacher = normal(6, 3), 3 * normal(6, 4, seed=1) + 2
    target = teacher
    if standardize:  # the statistics after the first step are those of the batch
        target = (teacher - teacher.mean(0)) / (teacher.var(0, correction=0) + 1e-6).sqrt()
    projected = student @ loss.project.weight.T + loss.project.bias
    expected = torch.stack([slowly(s, t, distance) for s, t in zip(projected, target, strict=True)])
    torch.testing.assert_close(loss.per_image(student, teacher), expected)
    loss.standardize.train(False)
    torch.testing.assert_close(loss(student, teacher), expected.mean())


@pytest.mark.parametrize("distance", ["cosine", "smooth_l1", "both"])
def test_maps_are_compared_at_each_position(distance) -> None:
    loss = MapMatch([2, 3], [5, 4], distance=distance, standardize=False).double()
    student, teacher = normal(2, 3, 2, 2), normal(2, 4, 3, 5, seed=1)
    projected = torch.einsum("nchw,dc->ndhw", student, loss.project.weight[:, :, 0, 0])
    projected = projected + loss.project.bias[:, None, None]
    resampled = F.interpolate(projected, (3, 5), mode="bilinear", antialias=True)
    expected = torch.stack(
        [
            torch.stack(
                [
                    slowly(resampled[n, :, y, x], teacher[n, :, y, x], distance)
                    for y in range(3)
                    for x in range(5)
                ]
            ).mean()
            for n in range(2)
        ]
    )
    torch.testing.assert_close(loss.per_image([student], [teacher]), expected)


def test_running_statistics_become_those_of_all_values() -> None:
    standardize = RunningStandardize(3).double()
    batches = [4 * normal(5, 3, seed=seed) + 7 for seed in range(6)]
    for batch in batches:
        standardize(batch)
    together = torch.stack(batches)
    torch.testing.assert_close(standardize.mean, together.mean((0, 1)))
    within = together.var(1, correction=0).mean(0)
    torch.testing.assert_close(standardize.variance, within)
    standardize.steps.fill_(10**6)
    before = standardize.mean.clone()
    standardize(batches[0])
    moved = before + 0.001 * (batches[0].mean(0) - before)
    torch.testing.assert_close(standardize.mean, moved)
    standardize.eval()(batches[1])
    torch.testing.assert_close(standardize.mean, moved)


def test_an_unknown_distance_is_refused() -> None:
    with pytest.raises(
        ValueError, match="distance is 'l2'; it must be 'cosine' or 'smooth_l1' or 'both"
    ):
        EmbedMatch(3, 4, distance="l2")
