import pytest
import torch
from sklearn.datasets import load_digits

from distillers.data import load


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_sizes_and_shapes(digits):
    assert digits.train_images.shape == (1297, 1, 32, 32)
    assert digits.test_images.shape == (500, 1, 32, 32)
    assert digits.num_classes == 10
    assert not digits.flip


def test_each_digit_is_its_own_and_in_the_order_of_the_source(digits):
    counts, classes = load_digits(return_X_y=True)
    assert digits.train_labels.tolist() + digits.test_labels.tolist() == classes.tolist()
    images = torch.cat([digits.train_images, digits.test_images])
    small = torch.as_tensor(counts).view(-1, 8, 8) * 255 / 16
    # Shrinking by four averages back what was enlarged, but for the blur of a bilinear filter.
    means = images.double().view(-1, 8, 4, 8, 4).mean(dim=(2, 4))
    for image, original in zip(means[::100], small[::100], strict=True):
        assert torch.corrcoef(torch.stack([image.flatten(), original.flatten()]))[0, 1] > 0.95


def test_enlarging_by_hand_agrees(digits):
    """Between the centres of two pixels the value goes linearly, in both directions."""
    counts, _ = load_digits(return_X_y=True)
    small = counts[0].reshape(8, 8) * 255 / 16
    y, x = 13, 18  # centres at 13.5 / 4 - 0.5 = 2.875 and 18.5 / 4 - 0.5 = 4.125
    upper = 0.875 * small[2, 4] + 0.125 * small[2, 5]
    lower = 0.875 * small[3, 4] + 0.125 * small[3, 5]
    assert digits.train_images[0, 0, y, x] == round(0.125 * upper + 0.875 * lower)


def test_mean_and_std_are_those_of_the_training_images(digits):
    pixels = digits.train_images.double() / 255
    assert digits.mean[0] == pytest.approx(float(pixels.mean()), abs=5e-6)
    assert digits.std[0] == pytest.approx(float(pixels.std(correction=0)), abs=5e-6)
