"""What noise must be: as wide as it should, centred, never the same twice, and independent of all other noise.

Standard errors are those of independent draws; a fair run fails one of the bounds about once in 20,000 times.
"""

import numpy as np

BOUND = 4.5


def check_fresh(draws: np.ndarray, deviation: float = 1.0, normal: bool = True) -> None:
    """Independent draws of mean 0, `[rounds, *sources]`; columns and successive rounds have nothing to do with another.

    Args:
        draws: The draws.
        deviation: Their standard deviation.
        normal: Whether they are normal ones, else any that are never the same twice.
    """
    x = np.asarray(draws, np.float64).reshape(len(draws), -1) / deviation
    assert len(np.unique(x)) == x.size, f"{x.size - len(np.unique(x))} of {x.size} draws were there before"
    off = x.mean() * np.sqrt(x.size)
    assert abs(off) < BOUND, f"the mean is {off:.1f} standard errors off zero"
    spread = np.square(x).mean()
    error = np.sqrt((2.0 if normal else np.square(np.square(x) - 1).mean()) / x.size)
    assert abs(spread - 1) < BOUND * error, f"the variance is {spread:.2f} of what it should be"
    check_unrelated(x)


def check_unrelated(x: np.ndarray) -> None:
    """Draws `[rounds, sources]` of mean 0 and variance 1 don't go together: within a round, nor one or two apart."""
    for lag in (0, 1, 2):
        together = x[: len(x) - lag].T @ x[lag:] / np.sqrt(len(x) - lag)  # sources by sources
        pairs = together[np.triu_indices(x.shape[1], 1)]
        groups = {"two sources": pairs} if lag == 0 else {"two sources": together.ravel(), "one": together.diagonal()}
        for who, group in groups.items():
            if group.size:
                largest = BOUND + np.sqrt(2 * np.log(group.size))  # of so many
                assert np.abs(group).max() < largest, f"noise of {who} goes together, {lag} rounds apart"
                total = group.sum() / np.sqrt(group.size)
                assert abs(total) < BOUND, f"noise of {who} goes together on the whole, {lag} rounds apart: {total:.1f}"


def check_calibrated(draws: np.ndarray, deviation: float) -> None:
    """Gaussian vectors `[rounds, sources, coordinates]` of this standard deviation, alike in all directions.

    No vector comes twice; coordinates, sources and successive rounds have nothing to do with another. With 10,000
    numbers or more, a deviation 5 % off is rejected all but once in 1,000 times.
    """
    x = np.asarray(draws, np.float64) / deviation
    vectors = x.reshape(-1, x.shape[-1])
    count, size = vectors.shape
    assert len(np.unique(vectors, axis=0)) == count, "a vector was there before"
    off = x.mean() * np.sqrt(x.size)
    assert abs(off) < BOUND, f"the mean is {off:.1f} standard errors off zero"
    spread = np.square(x).mean()
    assert abs(spread - 1) < BOUND * np.sqrt(2 / x.size), f"the variance is {spread:.3f} of what it should be"
    check_unrelated(x.reshape(len(x), -1))  # whatever is in another column: coordinates and sources
    # Of white noise, the extreme variances in any direction are those of Marchenko & Pastur, give or take the width of
    # the law of Tracy & Widom.
    variances = np.linalg.eigvalsh(vectors.T @ vectors / count)
    roots, inverse = np.sqrt(count) + np.sqrt(size) * np.array([-1, 1]), 1 / np.sqrt(count) + 1 / np.sqrt(size)
    width = BOUND * roots[1] * np.cbrt(inverse) / count
    low, high = roots**2 / count + np.array([-width, width])
    assert low < variances[0], f"the variance in a direction is {variances[0]:.2f} of what it should be"
    assert variances[-1] < high, f"the variance in a direction is {variances[-1]:.2f} of what it should be"
