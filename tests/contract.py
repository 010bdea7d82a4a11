"""What every trunk promises: one function a promise, each of which takes the trunk's name in TRUNKS."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from tiny import embedded, noise_batch
from torch import nn
from trunks import CPU, clips, damp, on_meta, small

from datasets.transforms import NORMALISATIONS
from explain.match import match
from hierarchy.tree import Hierarchy
from models import HIPE, TRUNKS, Trunk
from models.unwrapping import layout_of, unwrap
from models.weights import flags_of, load_pretrained
from training.engine import LossWeights, Phase, Trainer
from training.features import valid_clips
from training.push import push
from training.schedule import Step

TREE = Hierarchy.from_rows([["Run", "Legs"], ["Jump", "Legs"], ["Wave", "Arms"]])

# --- what it states


def states_what_the_constructor_takes(name: str) -> None:
    trunk = TRUNKS[name]
    arguments = inspect.signature(trunk.__init__).parameters
    assert issubclass(trunk, Trunk) and ("depth" in arguments) == bool(trunk.depths)
    assert (trunk.default_depth in trunk.depths) if trunk.depths else trunk.default_depth is None
    assert set(trunk.small) <= {"depth", *trunk.options}
    assert trunk.rounding in ("up", "down") and len(trunk.clip) == 2 and trunk.frame_stride >= 1
    defaults = {argument: option.value(option.unset) for argument, option in trunk.options.items()}
    assert defaults == {argument: option.default for argument, option in trunk.options.items()}
    usual, told = on_meta(name), on_meta(name, trunk.default_depth, **defaults)
    assert {key: value.shape for key, value in usual.state_dict().items()} == \
        {key: value.shape for key, value in told.state_dict().items()}
    assert usual.stride == told.stride and usual.offset == told.offset
    for along in (usual.stride, usual.offset):
        assert len(along) == 3 and all(isinstance(entry, int) for entry in along)


def refuses_a_depth_that_there_is_not(name: str) -> None:
    if TRUNKS[name].depths:
        with pytest.raises(ValueError, match="17"):
            on_meta(name, 17)


# --- where its cells are


@torch.no_grad()
def grid_follows_the_stride(name: str, depth: int | None = None) -> None:
    """By shapes alone."""
    trunk = on_meta(name, depth)
    frames, pixels = trunk.clip
    for size in ((16, 112, 144), (frames, pixels, pixels)):
        features = trunk(torch.empty(2, 3, *size, device="meta"))
        assert features.shape == (2, trunk.out_channels, *trunk.cells(size))


def strides_are_those_of_the_flags(name: str) -> None:
    """Each of five places can be changed, or has to be 1; the grid follows, no weight does."""
    trunk = TRUNKS[name]
    if trunk.strides is None:
        with pytest.raises(TypeError):
            on_meta(name, temporal_strides=(1, 1, 1, 1, 1))
        return
    assert len(trunk.places) == len(trunk.strides[0]) == len(trunk.strides[1]) == 5
    usual = on_meta(name, **trunk.small)
    temporal, spatial = ([stride + (place is not None) for stride, place in zip(along, trunk.places, strict=True)]
                         for along in trunk.strides)
    other = on_meta(name, **trunk.small, temporal_strides=temporal, spatial_strides=spatial)
    assert {key: value.shape for key, value in usual.state_dict().items()} == \
        {key: value.shape for key, value in other.state_dict().items()}, "a stride changed a weight"
    # what else subsamples does so by the same
    t, s = (stride * math.prod(along) // math.prod(before) for stride, along, before in
            zip(usual.stride[:2], (temporal, spatial), trunk.strides, strict=True))
    assert other.stride == (t, s, s)
    features = other(torch.empty(1, 3, 4 * t, 2 * s, 2 * s, device="meta"))
    assert features.shape[2:] == other.cells((4 * t, 2 * s, 2 * s)) == (4, 2, 2)
    for i in (i for i, place in enumerate(trunk.places) if place is None):
        with pytest.raises(ValueError, match="1"):
            on_meta(name, temporal_strides=[*trunk.strides[0][:i], 2, *trunk.strides[0][i + 1:]])
    with pytest.raises(ValueError, match="five"):
        on_meta(name, temporal_strides=(1, 2))


def _sees(trunk: Trunk, axis: int, length: int) -> tuple[int, int, int, int]:
    """The first and last frame (axis 0) or row (1) that a cell in the middle sees, the length, and the cell."""
    size = (8, length, 32) if axis else (length, 32, 32)
    clip = torch.ones(1, 3, *size, requires_grad=True)
    features = trunk(clip)
    middle = features.shape[2 + axis] // 2
    features.select(2 + axis, middle).sum().backward()
    seen = clip.grad.sum([i for i in range(5) if i != 2 + axis]).nonzero()[:, 0]
    return int(seen[0]), int(seen[-1]), size[axis], middle


def cells_are_centred_where_stride_and_offset_say(name: str) -> None:
    """What a cell in the middle of a long clip sees is as wide on one side of its centre as on the other.

    Of networks of 3D convolutions and poolings alone: attention sees everything.
    """
    kind = TRUNKS[name]
    trunk = kind(**kind.small, **({"conv1_t_size": 3} if "conv1_t_size" in kind.options else {})).eval()
    if any(isinstance(module, nn.Conv2d | nn.LayerNorm) for module in trunk.modules()):
        return

    def mean_pool(x, kernel, stride, padding=0, *_, **__):
        t, h, w = padding if isinstance(padding, tuple) else [padding] * 3
        return F.avg_pool3d(F.pad(x, (w, w, h, h, t, t)), kernel, stride)

    for module in trunk.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data.fill_(1 / module.weight[0].numel())
            if module.stride == (1, 1, 1):  # it sees as far to either side, and would ask for a longer clip
                middle = tuple(size // 2 for size in module.kernel_size)
                tap = module.weight[:, :, *middle].clone()
                module.weight.data.zero_()[:, :, *middle] = tap
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "max_pool3d", mean_pool)  # so that everything a pooling sees counts
        for axis in (0, 1):
            for length in (64, 256, 640):
                low, high, size, middle = _sees(trunk, axis, length)
                if low > 0 and high < size - 1:
                    break
            else:
                raise AssertionError("no clip is long enough")
            assert (low + high) // 2 == trunk.stride[axis] * middle + trunk.offset[axis]


# --- what it computes


def clips_stand_alone(name: str, trunk: Trunk | None = None, size: tuple[int, int, int] = (4, 16, 16)) -> None:
    """They answer the same twice and whatever is beside them; a gradient reaches every parameter."""
    trunk, some = trunk or small(name), clips(2, size)
    features = trunk(some)
    assert features.shape == (2, trunk.out_channels, *trunk.cells(size)) and features.isfinite().all()
    features.mean().backward()
    assert not [key for key, parameter in trunk.named_parameters() if parameter.grad is None]
    with torch.no_grad():
        assert torch.equal(trunk(some), features)
        torch.testing.assert_close(trunk(some[1:]), features[1:], atol=1e-4 * float(features.abs().max()), rtol=0)


def trains_pushes_and_explains(name: str, depth: int | None = None) -> None:
    """A joint step reaches every parameter of the trunk; then prototypes are pushed and explained."""
    size = (8, 32, 32) if TRUNKS[name].rounding == "down" else (4, 32, 16)
    made = [noise_batch([0, 1, 2], size=size)]
    (batch,) = valid_clips(made, CPU)
    trunk = damp(small(name, **({} if depth is None else {"depth": depth}))) if TRUNKS[name].small else small(name)
    with torch.no_grad():
        features = trunk(batch["clip"])
        assert features.shape == (3, trunk.out_channels, *trunk.cells(size)) and features.isfinite().all()
        assert torch.equal(trunk(batch["clip"]), features)
        torch.testing.assert_close(trunk(batch["clip"][1:2]), features[1:2], atol=1e-4 * float(features.abs().max()),
                                   rtol=0)
    model = HIPE(trunk, TREE, embedded(TREE), channels=4, per_node=2)
    weights = LossWeights(ce=[1.0], cluster=[1.0], separation=[0.1], background=0.5, coverage=1.0, group=1e-4)
    rate = 1e-14 if TRUNKS[name].small else 1e-4  # deep and untrained, with gradients of up to 1e11
    trainer = Trainer(model, {"joint": Phase("sgd", rate, rate)}, weights, sure=0.0)
    assert trainer.step(Step("joint", 1, 0), 0.0, batch)["loss"].isfinite()
    assert not [key for key, parameter in trunk.named_parameters() if parameter.grad is None]
    record, _ = push(model, made, names=["a", "b", "c"], device=CPU, n_clips=3)
    assert record.stride == trunk.stride and all(video is not None for video in record.video)
    for level in match(model.eval(), batch["clip"][0], [0, 1], k=1, record=record):
        assert level.heat.shape == size and level.matches[0].source is not None


# --- its published weights


def published_layouts_load(name: str) -> None:
    """In every layout, named and wrapped as published: all tensors arrive, the head is named and handed on, and no
    other trunk claims the file."""
    kind = TRUNKS[name]
    for layout in kind.layouts:
        trunk = on_meta(name, **kind.small).to_empty(device="cpu")
        own = {key: torch.rand(value.shape).to(value.dtype) for key, value in trunk.state_dict().items()}
        # of a network for images a kernel is repeated in time and divided by the repeats
        flat = {key: value[:, :, 0] if layout.flat and value.dim() == 5 else value for key, value in own.items()}
        inflated = any(flat[key].dim() != own[key].dim() for key in own)
        expected = {key: value if flat[key].dim() == value.dim() else
                    flat[key].unsqueeze(2).expand_as(value) / value.shape[2] for key, value in own.items()}
        head = {f"{layout.heads[0]}.weight": torch.rand(400, 4), f"{layout.heads[0]}.bias": torch.rand(400)}
        state = {layout.naming(key): value for key, value in flat.items()}
        assert len(state) == len(own), "two keys have one name"
        wrapped = {f"module.{key}": value for key, value in (state | head).items()}
        content = {"arch": f"{name}-x", "epoch": 3, layout.containers[0]: wrapped}
        found = unwrap(content, trunk)
        assert (found.state, found.place, found.arch) == (state | head, layout.containers[0], f"{name}-x")
        assert layout_of(state, kind) == layout, "another of its layouts matches, too"
        assert layout_of(state).name == layout.name, "its signs match the files of another trunk"
        claimed = flags_of(state)
        assert claimed["--model"] == name or layout.name in {one.name for one in TRUNKS[claimed["--model"]].layouts}
        told = kind.arguments_of(state)
        assert all(told.get(argument, value) == value for argument, value in kind.small.items())

        lines: list[str] = []
        with pytest.MonkeyPatch.context() as patch:  # files as large as these take their time
            patch.setattr("models.weights.read_state", lambda path, content=content: content)
            loaded = load_pretrained(trunk, "published.pth", n_classes=400, tell=lines.append)
        assert all(torch.equal(loaded.head[key], value) for key, value in head.items())
        assert loaded.dropped == list(head) and loaded.normalisation == layout.normalisation
        assert loaded.normalisation in NORMALISATIONS
        for key, value in trunk.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=1e-6, atol=0)
        line, = lines
        for word in (layout.name, f"{len(own)} tensors", f"{layout.heads[0]}.bias", f"{name}-x", layout.normalisation):
            assert word in line
        assert ("inflated" in line) == inflated


def old_files_saw_clips_as_their_layout_says(name: str) -> None:
    """Those from before batch-norms counted."""
    kind = TRUNKS[name]
    state = on_meta(name, **kind.small).state_dict()
    for layout in kind.layouts:
        keys = [key for key in state if not key.endswith("num_batches_tracked")]
        uncounted = {layout.naming(key): torch.empty((1,) * min(state[key].dim(), 4 if layout.flat else 5))
                     for key in keys}
        expected = layout.uncounted or layout.normalisation
        assert layout_of(uncounted, kind).normalisation_of(uncounted) == expected and expected in NORMALISATIONS


# by shapes alone, which takes no time
OF_SHAPES = (states_what_the_constructor_takes, refuses_a_depth_that_there_is_not, grid_follows_the_stride,
             strides_are_those_of_the_flags, old_files_saw_clips_as_their_layout_says)
OF_VALUES = (published_layouts_load, trains_pushes_and_explains, cells_are_centred_where_stride_and_offset_say)
CONTRACT = (*OF_SHAPES, clips_stand_alone, *OF_VALUES)
