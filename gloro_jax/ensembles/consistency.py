"""How alike two models' attributions are, input by input (Black, Leino, Fredrikson 2022)."""

import numpy as np
import scipy.ndimage
import scipy.stats


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of attributions (n, ...) to each input's features, (n,)."""
    ranks = [scipy.stats.rankdata(one.reshape(len(one), -1), axis=1) for one in (a, b)]
    centred = [one - one.mean(axis=1, keepdims=True) for one in ranks]
    lengths = np.prod([np.linalg.norm(one, axis=1) for one in centred], axis=0)
    products = np.sum(centred[0] * centred[1], axis=1)
    return np.divide(products, lengths, out=np.zeros(len(a)), where=lengths > 0)


def top_overlap(a: np.ndarray, b: np.ndarray, *, k: int = 5) -> np.ndarray:
    """The share of the k features of largest magnitude that two attributions have in common, (n,).

    Raises:
        ValueError: if there are fewer than k features.
    """
    flat = [np.abs(one).reshape(len(one), -1) for one in (a, b)]
    if not 1 <= k <= flat[0].shape[1]:
        raise ValueError(f"k is from 1 to the number of features, {flat[0].shape[1]}, got {k}.")
    tops = [np.argsort(-one, axis=1, kind="stable")[:, :k] for one in flat]
    return (tops[0][:, :, None] == tops[1][:, None, :]).any(axis=2).mean(axis=1)


def ssim(a: np.ndarray, b: np.ndarray, *, window: int = 7) -> np.ndarray:
    """Structural similarity of attributions to images (n, H, W, C), summed over C, (n,).

    Means over windows of the index of Wang, Bovik, Sheikh and Simoncelli (2004), with constants
    0.01 and 0.03 of the range of both images.

    Raises:
        ValueError: if the two are not of one such shape, or smaller than the window.
    """
    if np.shape(a) != np.shape(b) or np.ndim(a) != 4 or min(np.shape(a)[1:3]) < window:
        raise ValueError(
            "ssim compares two arrays of one shape (n, H, W, C), H and W at least "
            f"window={window}, got {np.shape(a)} and {np.shape(b)}."
        )
    found = []
    for x, y in zip(a.sum(axis=-1, dtype=float), b.sum(axis=-1, dtype=float), strict=True):
        reach = max(x.max(), y.max()) - min(x.min(), y.min())
        means = [scipy.ndimage.uniform_filter(one, window) for one in (x, y)]
        squares = [scipy.ndimage.uniform_filter(one * one, window) for one in (x, y)]
        product = scipy.ndimage.uniform_filter(x * y, window) - means[0] * means[1]
        spreads = [square - mean**2 for square, mean in zip(squares, means, strict=True)]
        c1, c2 = (0.01 * reach) ** 2, (0.03 * reach) ** 2
        above = (2 * means[0] * means[1] + c1) * (2 * product + c2)
        below = (means[0] ** 2 + means[1] ** 2 + c1) * (spreads[0] + spreads[1] + c2)
        inner = (slice(window // 2, -(window // 2)),) * 2
        found.append(np.mean((above / below)[inner]) if reach > 0 else 1.0)
    return np.array(found)
