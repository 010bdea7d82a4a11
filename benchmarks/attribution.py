"""What attribution costs: batched extremal perturbations against naive ones, and class feature pyramids.

    python -m benchmarks.attribution [--model_depth 18] [--batches 1 8] [--pyramids MF-Net I3D ...] [--device cpu]

Extremal perturbations (3d_ep) of a 3D-ResNet on clips of 16 x 112 x 112, seconds per clip and iteration: all clips in
one batch, and the same optimisation written plainly below, clip by clip, with a tensor of all neighbours' weights at
all pixels, a sort of all voxels and frames looked up one by one. Both take turns in one process; of each turn the ratio
is taken, and of these the median; then the smooth mask alone, without the network that takes most of the time.

Class feature pyramids of whole networks on such clips: what finding the channels costs beyond a forward pass, beside
the back-step times that Stergiou et al. (ICCV workshops 2019) published for two GTX 1080 Ti. Only ratios on one machine
compare.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from attribution.feature_pyramid import feature_pyramid
from attribution.masks import Degradations, SmoothMask
from attribution.perturbation import AREA_WEIGHT, ENERGIES, extremal_masks
from benchmarks.machine import machine
from benchmarks.tables import saved_tables
from models import TRUNKS, ResNet3D
from options.errors import CommandLine, user_errors
from run.model import choose_device

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int | None]] = {  # and the published milliseconds
    "ResNet-18": (lambda: ResNet3D(18), None), "ResNet-50": (lambda: ResNet3D(50), 21),
    "ResNet-101": (lambda: ResNet3D(101), 39), "ResNet-152": (lambda: ResNet3D(152), 31),
    "ResNeXt-101": (lambda: TRUNKS["resnext"](101), 70), "MF-Net": (TRUNKS["mfnet"], 24), "I3D": (TRUNKS["i3d"], 23)}
AREA, STEP, SIGMA, LEVELS = 0.1, 7, 11, 8


def unfolded_weights(size: tuple[int, int], device: torch.device) -> tuple[Tensor, int, int]:
    """Weights of all neighbours at all pixels, (k k, H', W'), the grid's padding and k."""
    radius, padding = 1 + math.ceil(SIGMA / STEP), 1 + math.ceil(2 * SIGMA / STEP)
    k = 2 * radius + 1
    cells = [math.ceil(n / STEP) + 2 * (padding - radius) for n in size]
    y, x = torch.meshgrid(*(torch.arange(STEP * n, device=device).double() for n in cells), indexing="ij")
    weights = []
    for i in range(k * k):
        rows, columns = (STEP * ((axis // STEP) + shift - padding) + SIGMA for axis, shift in ((y, i // k), (x, i % k)))
        away = torch.hypot(y - rows, x - columns) / SIGMA
        weights.append(torch.exp(-2 * (away - 0.5).clamp(min=0) ** 2).float())
    return torch.stack(weights), padding, k


def unfolded_masks(values: Tensor, weights: Tensor, padding: int, k: int) -> Tensor:
    """The smooth mask by all weights at once: (T, 1, gh, gw) grids -> (T, H', W')."""
    cells = [n // STEP for n in weights.shape[1:]]
    near = F.unfold(values, k, padding=padding).view(len(values), k * k, *cells)
    terms = weights * F.interpolate(near, scale_factor=STEP, mode="nearest")
    return (terms * (20 * terms).softmax(1)).sum(1)[:, :1 - STEP, :1 - STEP]


def naive_masks(score: Callable[[Tensor], Tensor], clip: Tensor, iterations: int) -> Tensor:
    """3d_ep of one clip (3, T, H, W), plainly: the mask (T, H, W) after the last iteration."""
    weights_of, size = ENERGIES["3d_ep"], tuple(clip.shape[2:])
    weights, padding, k = unfolded_weights(size, clip.device)
    levels = Degradations(clip[None], levels=LEVELS).levels[:, 0].movedim(2, 0)  # (T, levels, 3, H, W)
    values = torch.ones(clip.shape[1], 1, *(math.ceil(n / STEP) for n in size), device=clip.device, requires_grad=True)
    optimiser = torch.optim.SGD([values], lr=0.05, momentum=0.9, dampening=0.9)
    reference = None
    for _ in range(iterations):
        padded = unfolded_masks(values, weights, padding, k)
        mask = padded[:, SIGMA:SIGMA + size[0], SIGMA:SIGMA + size[1]]
        level = mask[:, None, None] * (LEVELS - 1)
        below = level.detach().floor().clamp(max=LEVELS - 2)
        index = below.long().expand(-1, 1, *levels.shape[2:])
        share = level - below
        shown = (1 - share) * levels.gather(1, index) + share * levels.gather(1, index + 1)  # (T, 1, 3, H, W)
        if reference is None:
            reference = (torch.arange(padded.numel(), device=clip.device) >= int(padded.numel() * (1 - AREA))).float()
        area = (padded.flatten().sort().values - reference).square().mean()
        energy = -weights_of.score_weight * score(shown[:, 0].movedim(0, 1)[None]).sum() + AREA_WEIGHT * area
        optimiser.zero_grad()
        energy.backward()
        optimiser.step()
        values.data.clamp_(0, 1)
    return mask.detach()


def seconds(what: Callable[[], object], device: torch.device) -> float:
    """How long a call takes, until the device is done."""
    began = time.perf_counter()
    what()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


class Classifier(nn.Module):
    """A trunk under a pooled softmax head of random weights: clips -> log-probability of class 0."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(self.trunk.out_channels, 400)
        self.requires_grad_(False).eval()

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.trunk(clips).mean((2, 3, 4))).log_softmax(-1)[:, 0]


def perturbations(args: argparse.Namespace, device: torch.device) -> None:
    """Print the table of extremal perturbations."""
    model = Classifier(ResNet3D(args.model_depth)).to(device, memory_format=torch.channels_last_3d)
    print(f"3d_ep, 3D-ResNet-{args.model_depth}, 16 x {args.sample_size} x {args.sample_size}, seconds per clip and "
          "iteration\n\n| clips in a batch | batched | naive, clip by clip | ratio (of all turns) |\n"
          "| --- | --- | --- | --- |")
    for n in args.batches:
        clips = torch.randn(n, 3, 16, args.sample_size, args.sample_size, device=device)
        ours = {"how": "3d_ep", "areas": (AREA,), "iterations": args.iterations, "patience": None}
        turns = []
        for _ in range(args.repeats + 1):
            batched = seconds(lambda: extremal_masks(lambda x, _: model(x), clips, **ours), device)  # noqa: B023
            naive = seconds(lambda: [naive_masks(model, clip, args.iterations) for clip in clips], device)  # noqa: B023
            turns.append((batched / n / args.iterations, naive / n / args.iterations))
        turns = turns[1:]
        batched, naive = (statistics.median(turn[i] for turn in turns) for i in (0, 1))
        ratios = [turn[1] / turn[0] for turn in turns]
        print(f"| {n} | {batched:.3f} | {naive:.3f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to "
              f"{max(ratios):.2f}) |", flush=True)


def masks(args: argparse.Namespace, device: torch.device) -> None:
    """Print the table of the smooth mask alone, forward and backward."""
    size = (args.sample_size, args.sample_size)
    operator, (weights, padding, k) = SmoothMask(size, device=device), unfolded_weights(size, device)
    values = torch.rand(16, 1, *operator.grid, device=device, requires_grad=True)
    turns = []
    for _ in range(args.repeats + 1):
        fused = seconds(lambda: torch.autograd.grad(operator(values)[1].sum(), values), device)
        unfolded = seconds(
            lambda: torch.autograd.grad(unfolded_masks(values, weights, padding, k).sum(), values), device)
        turns.append((fused, unfolded))
    fused, unfolded = (statistics.median(turn[i] for turn in turns[1:]) for i in (0, 1))
    ratio = statistics.median(turn[1] / turn[0] for turn in turns[1:])
    print(f"\nthe smooth mask of a clip alone, forward and backward, seconds\n\n| fused | unfolded weights | ratio |\n"
          f"| --- | --- | --- |\n| {fused:.3f} | {unfolded:.3f} | {ratio:.1f} |", flush=True)


def pyramids(args: argparse.Namespace, device: torch.device) -> None:
    """Print the table of class feature pyramids."""
    print("\nclass feature pyramid down to the first convolution, milliseconds\n\n| network | forward pass | pyramid, "
          "forward pass included | beyond it | published back-step |\n| --- | --- | --- | --- | --- |")
    for name in args.pyramids:
        make, published = NETWORKS[name]
        model = Classifier(make()).to(device, memory_format=torch.channels_last_3d)
        clip = torch.randn(3, 16, args.sample_size, args.sample_size, device=device)
        turns = []
        for _ in range(args.repeats + 1):
            with torch.no_grad():
                forward = seconds(lambda: model(clip[None]), device)  # noqa: B023
            whole = seconds(lambda: feature_pyramid(model, clip, layer=model.trunk, depth=1000), device)  # noqa: B023
            turns.append((forward, whole))
        forward, whole = (1000 * statistics.median(turn[i] for turn in turns[1:]) for i in (0, 1))
        beyond = 1000 * statistics.median(turn[1] - turn[0] for turn in turns[1:])
        print(f"| {name} | {forward:.0f} | {whole:.0f} | {beyond:.0f} | "
              f"{f'{published}, two GTX 1080 Ti' if published else '-'} |", flush=True)


def main() -> None:
    parser = CommandLine(prog="python -m benchmarks.attribution", description=__doc__.splitlines()[0])
    parser.add_argument("--model_depth", type=int, default=18, help="of the perturbed 3D-ResNet (default: 18)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="clips in a batch (default: 1 8)")
    parser.add_argument("--iterations", type=int, default=3, help="of an optimisation (default: 3)")
    parser.add_argument("--pyramids", nargs="*", choices=sorted(NETWORKS), default=list(NETWORKS),
                        help="of these networks, in three dimensions (default: all)")
    parser.add_argument("--sample_size", type=int, default=112, help="pixels of a clip, high and wide (default: 112)")
    parser.add_argument("--repeats", type=int, default=3, help="turns, after one not counted (default: 3)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    args = parser.parse_args()
    if min(*args.batches, args.iterations, args.repeats, args.sample_size) < 1:
        raise ValueError("--batches, --iterations, --repeats and --sample_size must be at least 1")
    device = choose_device(args.device, no_cuda=False)
    torch.manual_seed(0)
    print(f"{machine(no_cuda=device.type == 'cpu')}, torch {torch.__version__}\n")
    perturbations(args, device)
    masks(args, device)
    pyramids(args, device)


if __name__ == "__main__":
    with user_errors(), saved_tables("attribution", "attribution", "attribution_mask", "attribution_pyramids"):
        main()
