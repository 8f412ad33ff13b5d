"""Random numbers that are a function of the seed, the image and the turn alone."""

import numpy as np

# Constants of SplitMix64: "Fast Splittable Pseudorandom Number Generators", Steele, Lea and Flood,
# 2014, https://doi.org/10.1145/2660193.2660195.
STEP = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniforms(seed: int, stream: int, turn: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Return random numbers in (0, 1) for each image, (m, count) float64.

    They are a hash of the arguments, so that they depend neither on the batch nor on the process in
    which an image is loaded. `stream` is one of several sets of numbers of the same image, `turn`
    (m,) int64 the epoch or the fixed view of each image, and `rows` (m,) int64 are the images.
    """
    state = _hash(np.array([seed % 2**64], dtype=np.uint64) + STEP)
    for part in (np.array([stream]), turn, rows):
        state = _hash(state + (part.astype(np.uint64) + np.uint64(1)) * STEP)
    steps = np.arange(1, count + 1, dtype=np.uint64) * STEP
    bits = _hash(state[:, None] + steps) >> np.uint64(11)
    return (bits.astype(np.float64) + 0.5) * 2.0**-53


def _hash(values: np.ndarray) -> np.ndarray:
    """Return the output function of SplitMix64 of each value, uint64."""
    values = (values ^ (values >> np.uint64(30))) * FIRST
    values = (values ^ (values >> np.uint64(27))) * SECOND
    return values ^ (values >> np.uint64(31))
