"""I3D a second time: slow and plain, in numpy, on the arrays of flax as they are published."""

import math

import numpy as np

from models.i3d import MIXED

UNITS = ("Branch_0/Conv3d_0a_1x1", "Branch_1/Conv3d_0a_1x1", "Branch_1/Conv3d_0b_3x3", "Branch_2/Conv3d_0a_1x1",
         "Branch_2/Conv3d_0b_3x3", "Branch_3/Conv3d_0b_1x1")


def random_arrays(n_classes: int, seed: int = 0) -> dict:
    """A network of I3D's layout, of few different values, which compress well."""
    draw = np.random.default_rng(seed)
    params, statistics = {}, {}

    def unit(size: int, n_in: int, n_out: int) -> tuple[dict, dict]:
        fan_in = size ** 3 * n_in
        kernel = (draw.integers(-3, 4, (size, size, size, n_in, n_out)) * (0.7 / fan_in ** 0.5)).astype(np.float32)
        bias = draw.integers(-2, 3, n_out).astype(np.float32) / 10
        mean, var = (draw.integers(low, high, (1, 1, 1, 1, n_out)).astype(np.float32) / 10
                     for low, high in ((-3, 4), (5, 16)))
        return ({"Conv_0": {"kernel": kernel}, "BatchNorm_0": {"bias": bias}},
                {"BatchNorm_0": {"mean": mean, "var": var}})

    for name, *sizes in (("Conv3d_1a_7x7", 7, 3, 64), ("Conv3d_2b_1x1", 1, 64, 64), ("Conv3d_2c_3x3", 3, 64, 192)):
        params[name], statistics[name] = unit(*sizes)
    n_in = 192
    for block, (b0, b1a, b1b, b2a, b2b, b3b) in MIXED.items():
        sizes = ((1, n_in, b0), (1, n_in, b1a), (3, b1a, b1b), (1, n_in, b2a), (3, b2a, b2b), (1, n_in, b3b))
        units = {name: unit(*size) for name, size in zip(UNITS, sizes, strict=True)}
        params[block] = {name: pair[0] for name, pair in units.items()}
        statistics[block] = {name: pair[1] for name, pair in units.items()}
        n_in = b0 + b1b + b2b + b3b
    kernel = draw.integers(-3, 4, (1, 1, 1, n_in, n_classes)).astype(np.float32) / 10
    params["Logits/Conv3d_0c_1x1"] = {"Conv_0": {"kernel": kernel, "bias": np.arange(n_classes, dtype=np.float32) / 10}}
    return {"params": params, "batch_stats": statistics}


def windows(x: np.ndarray, kernel: tuple, stride: tuple, fill: float):
    """Of an array (t, h, w, C), padded as TensorFlow's SAME does: for every tap of a kernel, what it meets."""
    pads, cells = [], [math.ceil(n / s) for n, s in zip(x.shape, stride, strict=False)]
    for n, k, s, out in zip(x.shape, kernel, stride, cells, strict=False):
        total = max((out - 1) * s + k - n, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, [*pads, (0, 0)], constant_values=fill)
    for tap in np.ndindex(*kernel):
        yield tap, padded[tuple(slice(at, at + (out - 1) * s + 1, s)
                                for at, out, s in zip(tap, cells, stride, strict=True))]


def unit(params: dict, statistics: dict, x: np.ndarray, stride: tuple = (1, 1, 1)) -> np.ndarray:
    """Convolution, batch-norm without scale, and ReLU."""
    kernel = params["Conv_0"]["kernel"].astype(np.float64)
    out = sum(part @ kernel[tap] for tap, part in windows(x, kernel.shape[:3], stride, 0.0))
    mean, var = (statistics["BatchNorm_0"][name].reshape(-1).astype(np.float64) for name in ("mean", "var"))
    return np.maximum((out - mean) / np.sqrt(var + 1e-3) + params["BatchNorm_0"]["bias"], 0)


def max_pool(x: np.ndarray, kernel: tuple, stride: tuple) -> np.ndarray:
    """The largest of each window; the padding never is."""
    out = None
    for _, part in windows(x, kernel, stride, -np.inf):
        out = part if out is None else np.maximum(out, part)
    return out


def logits(arrays: dict, clip: np.ndarray) -> np.ndarray:
    """The logits of a clip (T, H, W, 3) from -1 to 1: the head pools 2 x 7 x 7 (or the grid, where it is smaller)."""
    params, statistics = arrays["params"], arrays["batch_stats"]

    def run(name: str, x: np.ndarray, stride: tuple = (1, 1, 1)) -> np.ndarray:
        return unit(params[name], statistics[name], x, stride)

    x = run("Conv3d_1a_7x7", clip.astype(np.float64), (2, 2, 2))
    x = run("Conv3d_2c_3x3", run("Conv3d_2b_1x1", max_pool(x, (1, 3, 3), (1, 2, 2))))
    pools = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}
    for block in MIXED:
        if block in pools:
            x = max_pool(x, *pools[block])
        b0, b1a, b1b, b2a, b2b, b3b = ((params[block][name], statistics[block][name]) for name in UNITS)
        x = np.concatenate([unit(*b0, x), unit(*b1b, unit(*b1a, x)), unit(*b2b, unit(*b2a, x)),
                            unit(*b3b, max_pool(x, (3, 3, 3), (1, 1, 1)))], -1)
    head = params["Logits/Conv3d_0c_1x1"]["Conv_0"]
    kernel, bias = head["kernel"][0, 0, 0].astype(np.float64), head["bias"].astype(np.float64)
    t, h, w = (min(pair) for pair in zip(x.shape, (2, 7, 7), strict=False))
    places = [x[i:i + t, j:j + h, k:k + w].mean((0, 1, 2)) @ kernel + bias for i in range(x.shape[0] - t + 1)
              for j in range(x.shape[1] - h + 1) for k in range(x.shape[2] - w + 1)]
    return np.mean(places, 0)
