"""Transformers of the transformers library as trunks: what they compute, where their cells are, what they are fast
by."""

import sys

import pytest
import torch
import torch.nn.functional as F
from hub import FAMILIES, last_hidden_state, library_network, published
from torch import Tensor, nn
from trunks import assert_close, clips, on_meta, small

from models import TRUNKS
from models.hub_trunk import resized, sinusoids
from models.patches import Patches3D, as_product, patch_product
from models.stages import stages, stages_before
from models.weights import load_pretrained

SIZE = (8, 32, 32)  # the usual clip of tiny networks


def loaded(name: str, folder, sizes: dict | None = None, **options):
    """A network of the library, and the trunk of its folder, in eval mode."""
    network = published(folder, name, sizes, **options)
    trunk = TRUNKS[name](**TRUNKS[name].small) if sizes is None else TRUNKS[name]()
    load_pretrained(trunk, folder)
    return network, trunk.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_the_librarys_last_hidden_state(name, tmp_path):
    network, trunk = loaded(name, tmp_path)
    some = clips(2, SIZE)
    features = trunk(some)
    assert_close(features, last_hidden_state(network, trunk, some))
    with torch.autocast("cpu", torch.bfloat16):
        half = trunk(some).float()
    assert float((half - features).norm() / features.norm()) < 0.05


@torch.no_grad()
def test_tokens_of_networks_that_were_not_fine_tuned_are_normalised(tmp_path):
    sizes = {**TRUNKS["videomae"].sizes_of(None, TRUNKS["videomae"].small["config"]), "use_mean_pooling": False}
    network = library_network("videomae", sizes, kind="VideoMAEModel")
    network.save_pretrained(tmp_path)
    trunk = TRUNKS["videomae"](config='{"use_mean_pooling":false,' + TRUNKS["videomae"].small["config"][1:]).eval()
    load_pretrained(trunk, tmp_path)
    assert_close(trunk(clips(1, SIZE)), last_hidden_state(network, trunk, clips(1, SIZE)))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_features_of_base_sized_networks(name, tmp_path):
    """Of as many frames as are quick, at the usual size."""
    frames = {"vjepa2": "frames_per_clip"}.get(name, "num_frames")
    sizes = {**TRUNKS[name].sizes[TRUNKS[name].default_depth], frames: 4}
    network = published(tmp_path, name, sizes)
    trunk = TRUNKS[name](config=f'{{"{frames}":4}}').eval()
    load_pretrained(trunk, tmp_path)
    size = (4, trunk.clip[1], trunk.clip[1])
    assert_close(trunk(clips(1, size)), last_hidden_state(network, trunk, clips(1, size)))


@torch.no_grad()
def test_joint_attention_of_timesformer(tmp_path):
    sizes = TRUNKS["timesformer"].sizes_of(None, TRUNKS["timesformer"].small["config"])
    sizes["attention_type"] = "joint_space_time"
    network = published(tmp_path, "timesformer", sizes)
    config = TRUNKS["timesformer"].small["config"][:-1] + ',"attention_type":"joint_space_time"}'
    trunk = TRUNKS["timesformer"](config=config).eval()
    load_pretrained(trunk, tmp_path)
    assert_close(trunk(clips(2, SIZE)), last_hidden_state(network, trunk, clips(2, SIZE)))
    with pytest.raises(ValueError, match="divided_space_time"):
        TRUNKS["timesformer"](config='{"attention_type":"space_only"}')


# --- positions of other clips


def test_positions_in_loops():
    """Sums of one in time and one in space stay such sums; each is interpolated linearly between middles of cells."""
    time, space = torch.randn(4, 1, 1, 5), torch.randn(1, 3, 6, 5)
    found = resized((time + space).flatten(0, 2), (4, 3, 6), (6, 5, 2)).unflatten(0, (6, 5, 2))

    def at(values: Tensor, place: float) -> Tensor:
        place = min(max(place, 0), len(values) - 1)
        low = min(int(place), len(values) - 2)
        return values[low] * (1 - (place - low)) + values[low + 1] * (place - low)

    for i in range(6):
        for j in range(5):
            for k in range(2):
                row = at(space[0], (j + 0.5) * 3 / 5 - 0.5)
                expected = at(time[:, 0, 0], (i + 0.5) * 4 / 6 - 0.5) + at(row, (k + 0.5) * 6 / 2 - 0.5)
                torch.testing.assert_close(found[i, j, k], expected)
    assert resized(time.flatten(0, 2), (4, 1, 1), (4, 1, 1)) is not None


def test_sinusoids_in_loops():
    import math
    table = sinusoids(7, 6)
    for i in range(7):
        for k in range(6):
            angle = i / 10000 ** (2 * (k // 2) / 6)
            assert math.isclose(float(table[i, k]), math.cos(angle) if k % 2 else math.sin(angle), abs_tol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_clip_of_another_size_sees_interpolated_positions(name, tmp_path):
    """The network of that size, with these positions written down as its own, gives the same."""
    _, trunk = loaded(name, tmp_path)
    size, grid = (4, 48, 16), (4 // trunk.stride[0], 6, 2)
    features = trunk(clips(1, size))
    assert features.shape[2:] == grid
    state = {key: value.clone() for key, value in trunk.state_dict().items()}
    for key, n in (("embeddings.position_embeddings", 1), ("embeddings.time_embeddings", 0)):
        if key in state:
            first, cells = state[key][0].tensor_split((n,))
            usual, other = trunk.usual, grid
            if name == "timesformer":
                usual, other = ((1, *usual[1:]), (1, *grid[1:])) if n else ((usual[0], 1, 1), (grid[0], 1, 1))
            state[key] = torch.cat((first, resized(cells, usual, other)))[None]
    sizes = {"videomae": '"image_size":[48,16],"num_frames":4', "vivit": '"image_size":[48,16],"num_frames":4',
             "timesformer": '"image_size":[48,16],"num_frames":4', "vjepa2": '"frames_per_clip":4'}[name]
    own = TRUNKS[name](config=TRUNKS[name].small["config"][:-1] + f",{sizes}}}").eval()
    own.load_state_dict(state)
    if name == "videomae":
        own.positions = resized(trunk.positions, trunk.usual, grid)
    assert_close(features, own(clips(1, size)))
    if name != "vjepa2":
        assert own.usual == grid


@torch.no_grad()
def test_rotary_positions_of_a_part_of_the_usual_grid_span_it():
    """Rows and columns twice as far apart on a grid half as fine; frames are as far apart in any clip."""
    trunk = small("vjepa2")
    from models.library_parts import rotation_of

    usual = [table.unflatten(0, (4, 4, 4)) for table in rotation_of((4, 4, 4), (4, 4), 12, torch.device("cpu"))]
    half = [table.unflatten(0, (2, 2, 2)) for table in rotation_of((2, 2, 2), (4, 4), 12, torch.device("cpu"))]
    for whole, part in zip(usual, half, strict=True):
        torch.testing.assert_close(part, whole[:2, ::2, ::2])
    assert trunk.usual == (4, 4, 4)


# --- where cells are


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_cell_stands_for_its_patch(name):
    """Without attention a change of a voxel changes the cell whose patch it lies in, and no other."""
    trunk = small(name)
    for key, parameter in trunk.named_parameters():
        if any(part in key for part in ("attention.output.dense", "o_proj", "attention.proj", "temporal_dense")):
            parameter.zero_()
    some = clips(1, (6, 35, 29))  # 5 and 3 columns and rows are left over
    before = trunk(some)
    t, h, w = trunk.stride
    for frame, y, x in ((0, 0, 0), (1, 7, 8), (5, 31, 23), (3, 16, 7), (2, 34, 4), (4, 3, 28)):
        other = some.clone()
        other[:, :, frame, y, x] += 5
        changed = (trunk(other) != before).any(1)[0].nonzero().tolist()
        cell = [frame // t, y // h, x // w]
        inside = y // h < before.shape[3] and x // w < before.shape[4]
        assert changed == ([cell] if inside else [])
        if inside:  # the cell's centre, rounded down, is half a patch from its edges
            assert all(abs(s * c + o + 0.25 - (at - 0.25)) <= s / 2 for s, c, o, at in zip(
                trunk.stride, cell, trunk.offset, (frame, y, x), strict=True))
    assert trunk.offset == tuple((s - 1) // 2 for s in trunk.stride)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_classes_state_what_networks_of_the_usual_sizes_have(name):
    trunk = on_meta(name)
    for attribute in ("out_channels", "stride", "offset", "clip"):
        assert getattr(trunk, attribute) == getattr(TRUNKS[name], attribute), attribute


# --- speed


@torch.no_grad()
@pytest.mark.parametrize(("size", "kernel"), [((5, 19, 33), (2, 8, 8)), ((4, 16, 16), (2, 4, 8)),
                                              ((2, 7, 9), (1, 3, 2))])
def test_patches_are_a_matrix_product(size, kernel):
    """Equal to the convolution, in half precision as near to float32 as rounding allows."""
    torch.manual_seed(0)
    conv = nn.Conv3d(3, 6, kernel, kernel)
    some = clips(2, size)
    expected = conv(some)
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        weight = conv.weight.contiguous(memory_format=layout)
        found = patch_product(some.contiguous(memory_format=layout), weight, conv.bias)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for dtype in (torch.bfloat16, torch.float16):
        half = patch_product(some.to(dtype), conv.weight.to(dtype), conv.bias.to(dtype))
        assert half.dtype == dtype
        assert float((half.float() - expected).abs().max()) < 8 * torch.finfo(dtype).eps * float(expected.abs().max())
    flat = nn.Conv2d(3, 6, kernel[1:], kernel[1:])
    torch.testing.assert_close(patch_product(some[:, :, 0], flat.weight, flat.bias), flat(some[:, :, 0]), atol=1e-5,
                               rtol=1e-5)


def test_overlapping_patches_are_no_matrix_product():
    for conv in (nn.Conv3d(3, 4, 3, 2), nn.Conv3d(3, 4, 2, 2, 1), nn.Conv2d(4, 4, 2, 2, groups=2)):
        with pytest.raises(ValueError, match="overlap"):
            as_product(conv)


@pytest.mark.parametrize("name", [*FAMILIES, "swin3d_t"])
def test_on_other_devices_than_a_cpu_patches_run_as_a_product(name, monkeypatch):
    calls = []
    monkeypatch.setattr("models.patches.patch_product", lambda *given: calls.append(given) or patch_product(*given))
    trunk = on_meta(name, **TRUNKS[name].small)
    trunk(torch.empty(1, 3, *SIZE, device="meta"))
    assert len(calls) == 1
    assert sum(isinstance(module, Patches3D) for module in trunk.modules()) == (name != "timesformer")


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_is_sdpa(name, monkeypatch):
    calls = []
    sdpa = F.scaled_dot_product_attention
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention",
                        lambda *given, **options: calls.append(1) or sdpa(*given, **options))
    trunk = small(name)
    trunk(clips(1, SIZE))
    assert len(calls) == (4 if name == "timesformer" else 2)  # in time and in space


# --- blocks, and what is refused


@pytest.mark.parametrize("name", FAMILIES)
def test_fine_tuning_begins_at_any_block(name):
    trunk = small(name)
    blocks = {"vjepa2": "layer", "vivit": "layers"}.get(name, "encoder.layer")
    assert [part for part in stages(trunk) if part.startswith(f"{blocks}.")] == [f"{blocks}.0", f"{blocks}.1"]
    assert stages_before(trunk, f"{blocks}.1") == [trunk.embeddings, trunk.get_submodule(f"{blocks}.0")]
    assert stages_before(trunk, blocks) == [trunk.embeddings]
    with pytest.raises(ValueError, match=rf"--ft_begin_module {blocks}.9.*{blocks}.1"):
        stages_before(trunk, f"{blocks}.9")


def test_a_list_of_blocks_may_be_called_by_its_name():
    trunk = nn.Module()
    trunk.stem, trunk.blocks = nn.Linear(1, 1), nn.ModuleList(nn.Linear(1, 1) for _ in range(2))
    trunk.norm = nn.LayerNorm(1)
    assert list(stages(trunk)) == ["stem", "blocks.0", "blocks.1", "norm"]
    assert stages_before(trunk, "blocks") == stages_before(trunk, "blocks.0") == [trunk.stem]


def test_without_the_library_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "models.library_parts", raising=False)
    monkeypatch.delattr(sys.modules["models"], "library_parts", raising=False)
    with pytest.raises(ValueError, match=r"--model vivit needs the package transformers.*requirements-transformers"):
        TRUNKS["vivit"]()


@pytest.mark.parametrize(("config", "word"), [
    ('{"hidden_size":25}', "multiple"), ('{"hidden_size":"wide"}', "hidden_size"), ('{"num_channels":1}', "3 channels"),
    ('{"image_size":8}', "no patch"), ('{"hidden_act":"nothing"}', "nothing")])
def test_sizes_that_the_library_does_not_take(config, word):
    with pytest.raises(ValueError, match=word):
        on_meta("videomae", config=config)


def test_a_depth_that_contradicts_the_config():
    with pytest.raises(ValueError, match="--model_depth 24 contradicts"):
        on_meta("videomae", 24, config='{"num_hidden_layers":12}')
    assert len(on_meta("videomae", 2, config='{"num_hidden_layers":2}').encoder.layer) == 2
    assert len(on_meta("videomae", 24).encoder.layer) == 24 and on_meta("videomae", 24).out_channels == 1024
