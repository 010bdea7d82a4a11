"""Push equals slow triple loops, tells where everything comes from, and what it keeps is what it saw."""

import copy
import json
import math

import pytest
import torch
from tiny import noise_batch, random_tree, sampling_hipe, small_hipe
from torch import nn

from hierarchy.tree import Hierarchy
from training.features import KeptFeatures, keep_features, valid_clips
from training.push import PushRecord, push
from training.starts import start_prototypes

CPU = torch.device("cpu")
LABELS = [0, 3, 5, 3, 0, 2, 5, 5]  # of 7 classes: 1, 4 and 6 have no clip


def batches(sizes=(3, 3, 2), labels=LABELS):
    made, first = [], 0
    for size in sizes:
        made.append(noise_batch(labels[first:first + size], first=first))
        first += size
    return made


NAMES = [f"video {i}" for i in range(8)]


@pytest.fixture
def tree():
    return random_tree(4, 3, 7)


def slow_push(model, loader, repeats=False):
    """For every prototype, clip and cell, one after the other; then patches are handed out, the nearest first."""
    layer, near = model.prototype_layer, {}
    start = layer.prototypes.detach().clone()
    for batch in valid_clips(loader, CPU):
        features = model(batch["clip"]).features
        for b, label in enumerate(batch["label"].tolist()):
            patches, source = features[b].flatten(1).T, (batch["frames"][b], batch["crop"][b])
            for p, node in enumerate(layer.node_of.tolist()):
                if node not in model.ancestors[label]:
                    continue
                best = (math.inf,)
                for n, patch in enumerate(patches):
                    distance = float((patch - start[p]).square().sum())
                    if distance < best[0]:
                        best = (distance, int(batch["video"][b]), n, patch, *source)
                of_video = near.setdefault(p, {})
                of_video[best[1]] = min(of_video.get(best[1], best), best, key=lambda one: one[0])
    nearest = {p: min(found.values(), key=lambda one: one[0]) for p, found in near.items()}
    given = {}
    while free := [(one[0], p, one) for p, found in near.items() if p not in given for one in found.values()
                   if repeats or not any(layer.node_of[p] == layer.node_of[q] and one[1:3] == other[1:3]
                                         and torch.equal(one[4], other[4]) for q, other in given.items())]:
        _, p, one = min(free, key=lambda pair: pair[0])
        given[p] = one
    return nearest | given


@pytest.fixture(params=["all readable", "some not", "several clips a video"])
def loader(request):
    made = batches()
    if request.param == "some not":
        made[0]["valid"][1] = False
        made[2]["valid"][:] = False
    if request.param == "several clips a video":  # clips 1 and 3 are of class 3, 2 and 6 of class 5
        made[1]["video"][0], made[2]["video"][0] = 1, 2
    return made


@torch.no_grad()
@pytest.mark.parametrize("repeats", [False, True])
def test_push_equals_slow_triple_loops(tree, loader, repeats):
    model = small_hipe(tree, per_node=3).eval()
    before = model.prototype_layer.prototypes.detach().clone()
    expected = slow_push(model, loader, repeats)
    record, kept = push(model, loader, names=NAMES, device=CPU, epoch=7, n_clips=8, repeats=repeats)
    assert record.epoch == 7 and record.clip_size == (8, 32, 32) and record.stride == (4, 8, 8)
    assert 0 < len(expected) < len(before)
    for p in range(len(before)):
        if p not in expected:
            assert record.video[p] is None
            assert torch.equal(model.prototype_layer.prototypes[p], before[p])
            assert record.distance[p] == 0 and not record.maps[p].any()
            continue
        distance, video, cell, patch, frames, crop = expected[p]
        assert (record.video[p], int(record.cell[p])) == (NAMES[video], cell)
        assert float(record.distance[p]) == pytest.approx(distance, rel=1e-5, abs=1e-6)
        assert torch.equal(model.prototype_layer.prototypes[p], patch)
        assert torch.equal(record.frames[p], frames) and torch.equal(record.crop[p], crop)
    assert len(kept.labels) == sum(int(batch["valid"].sum()) for batch in loader)


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_every_matched_prototype_scores_its_own_patch(tree, batch_size):
    """Whatever the batch in which its clip runs through the model again."""
    model = small_hipe(tree, per_node=3)
    record, _ = push(model, batches(), names=NAMES, device=CPU, n_clips=8)
    assert not model.training
    clips = torch.cat([batch["clip"] for batch in valid_clips(batches(), CPU)])
    activations = torch.cat([model(some).activations for some in clips.split(batch_size)])
    own = [activations[NAMES.index(name), p] for p, name in enumerate(record.video) if name is not None]
    assert len(own) >= 3 * 4 and min(own) >= 9.15


@torch.no_grad()
def test_the_earliest_clip_and_cell_win_ties():
    model = sampling_hipe(Hierarchy.from_rows([["a", "top"], ["b", "top"]]))
    batch = noise_batch([0, 0, 1], size=(4, 8, 8))
    batch["clip"][1] = batch["clip"][0]  # video 1 is video 0 again, and so are 3 and 4 in the next batch
    batch["clip"][:, :, 2:] = batch["clip"][:, :, :2]  # every patch comes twice in its clip, too
    again = {**noise_batch([0, 0, 1], first=3, size=(4, 8, 8)), "clip": batch["clip"].clone()}
    ties = copy.deepcopy(model)
    record, _ = push(model, [batch, again], names=NAMES, device=CPU, n_clips=6, repeats=True)
    assert set(record.video[:2]) == {"video 0"} and set(record.video[2:4]) == {"video 2"}
    assert set(record.video[4:]) <= {"video 0", "video 2"}
    assert (record.cell < 4).all()  # of 2 x 2 x 2
    assert (record.frames[:2] == torch.arange(4)).all()
    ties.prototype_layer.prototypes[1] = ties.prototype_layer.prototypes[0]
    record, _ = push(ties, [batch, again], names=NAMES, device=CPU, n_clips=6)
    assert record.video[:2] == ["video 0", "video 1"]  # of two that want the same, the first takes the earliest


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(6,), (2, 2, 2), (1,) * 6])
def test_clips_of_one_video_are_one_choice(sizes):
    """Two videos, each with the same clip three times, as videos no longer than a clip give it: both are chosen."""
    model = sampling_hipe(Hierarchy.from_rows([["a", "top"], ["b", "top"]]))
    layer = model.prototype_layer
    layer.prototypes[1] = layer.prototypes[0]
    made = batches(sizes, [0] * 6)
    whole = {key: torch.cat([batch[key] for batch in made]) for key in made[0]}
    whole |= {key: values[torch.tensor([0, 0, 0, 3, 3, 3])] for key, values in whole.items() if key != "item"}
    whole["video"] = torch.tensor([0, 0, 0, 1, 1, 1])
    loader = [dict(zip(whole, values, strict=True)) for values in zip(*(v.split(sizes) for v in whole.values()),
                                                                      strict=True)]
    record, _ = push(model, loader, names=NAMES, device=CPU, n_clips=6)
    assert set(record.video[:2]) == {"video 0", "video 1"} and record.duplicates(layer.node_of) == 0


@torch.no_grad()
@pytest.mark.parametrize("other", ["another clip", "another video"])
def test_the_same_place_in_another_clip_is_another_patch(other):
    """Two prototypes are the patches of one cell in two clips, which may be of two videos with the same frames."""
    model = sampling_hipe(Hierarchy.from_rows([["a", "top"], ["b", "top"]]))
    layer, batch = model.prototype_layer, noise_batch([0, 0, 0], size=(4, 8, 8))
    if other == "another clip":
        batch["video"][1] = 0
    else:
        batch["frames"][1] = batch["frames"][0]
    clips = next(iter(valid_clips([batch], CPU)))["clip"]
    layer.prototypes[:2] = model.trunk(clips)[:2].flatten(2)[:, :, 3]
    record, _ = push(model, [batch], names=NAMES, device=CPU, n_clips=3)
    assert record.video[:2] == ["video 0", "video 0" if other == "another clip" else "video 1"]
    assert record.cell[:2].tolist() == [3, 3] and record.distance[:2].tolist() == [0, 0]
    assert torch.equal(record.frames[:2], batch["frames"][:2])


@torch.no_grad()
def test_nodes_with_unequal_numbers_of_prototypes(tree):
    """As pruning leaves them."""
    model = small_hipe(tree, per_node=[1 + node % 3 for node in range(len(tree))]).eval()
    layer = model.prototype_layer
    first = layer.counts.cumsum(0) - layer.counts
    layer.prototypes.copy_(layer.prototypes[first[layer.node_of]])
    expected = slow_push(model, batches())
    record, _ = push(model, batches(), names=NAMES, device=CPU, n_clips=8)
    found = {p: (name, int(cell)) for p, (name, cell) in enumerate(zip(record.video, record.cell, strict=True)) if name}
    assert found == {p: (NAMES[video], cell) for p, (_, video, cell, *_) in expected.items()}


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(8,), (3, 3, 2), (1,) * 8])
def test_no_two_prototypes_of_a_node_become_one_patch(tree, sizes):
    """All of a node start alike, as training may make them: each takes a clip of its own, while there are any."""
    model = small_hipe(tree, per_node=3)
    layer = model.prototype_layer
    layer.prototypes.copy_(layer.prototypes[layer.counts.cumsum(0)[layer.node_of] - 1])
    start = layer.prototypes.clone()
    record, _ = push(model, batches(sizes), names=NAMES, device=CPU, n_clips=8)
    labels = dict(zip(NAMES, LABELS, strict=True))
    for node in layer.node_of.unique().tolist():
        which = (layer.node_of == node).nonzero()[:, 0].tolist()
        clips = [name for name, label in labels.items() if node in model.ancestors[label]]
        found = [record.video[p] for p in which]
        assert found == [None] * 3 if not clips else len(set(found)) == min(len(clips), 3)
        if len(clips) >= 3:  # the nearest clips there are, in order
            own = [model(batch["clip"][b:b + 1]).features[0].flatten(1).T
                   for batch in valid_clips(batches(sizes), CPU) for b, label in enumerate(batch["label"])
                   if node in model.ancestors[label]]
            distances = sorted(float((patches - start[which[0]]).square().sum(1).min()) for patches in own)[:3]
            assert sorted(record.distance[which].tolist()) == pytest.approx(distances, rel=1e-5, abs=1e-6)
    n_clips = [sum(node in model.ancestors[label] for label in LABELS) for node in range(len(tree))]
    assert record.duplicates(layer.node_of) == sum(3 - min(n, 3) for n in n_clips if n)  # of nodes with one or two


@torch.no_grad()
def test_the_record_survives_a_checkpoint(tree, tmp_path):
    record, _ = push(small_hipe(tree), batches(), names=NAMES, device=CPU, n_clips=8)
    torch.save(record.to_dict(), tmp_path / "record.pth")
    loaded = PushRecord.from_dict(torch.load(tmp_path / "record.pth", weights_only=True))
    for name, value in vars(record).items():
        found = getattr(loaded, name)
        assert type(found) is type(value), name
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value, name
    assert loaded.box(0) == record.box(0)


@torch.no_grad()
def test_the_record_alone_says_where_prototypes_look(tree):
    model = small_hipe(tree, per_node=3)
    loader = batches()
    record, _ = push(model, loader, names=NAMES, device=CPU, n_clips=8)
    features = torch.cat([model(batch["clip"]).features for batch in valid_clips(loader, CPU)])
    matched = [p for p, name in enumerate(record.video) if name is not None]
    for p in matched:
        clip = NAMES.index(record.video[p])
        distances = model.prototype_layer.maps(features[clip:clip + 1], torch.tensor([p]))[0, 0]
        expected = model.prototype_layer.similarity(distances)
        assert float(record.maps[p].max()) == pytest.approx(9.2103, abs=1e-4)
        assert int(record.maps[p].argmax()) == int(record.cell[p])
        far = expected < 6  # half precision blurs what is nearly the same
        torch.testing.assert_close(record.maps[p][far], expected[far], atol=0.02, rtol=0.01)
        heat, peak, box = record.heat(p), record.peak(p).tolist(), record.box(p)
        assert heat.shape == (8, 32, 32)
        assert all(low <= at < high for low, at, high in zip(box[:3], peak, box[3:], strict=True))
        y0, x0, y1, x1 = record.crop[p].tolist()
        assert y0 <= box[1] < box[4] <= y1 and x0 <= box[2] < box[5] <= x1
        t, h, w = (int(i) for i in torch.unravel_index(record.cell[p], (2, 4, 4)))
        assert peak == [int(record.frames[p, 4 * t]), int(y0 + (8 * h + 0.5) * 2), int(x0 + (8 * w + 0.5) * 2)]


@torch.no_grad()
def test_rows_are_json(tree):
    model = small_hipe(tree)
    record, _ = push(model, batches(), names=NAMES, device=CPU, n_clips=8)
    rows = json.loads(json.dumps(record.rows(tree, model.prototype_layer.node_of)))
    assert [row["prototype"] for row in rows] == list(range(len(rows)))
    for row, node in zip(rows, model.prototype_layer.node_of.tolist(), strict=True):
        assert row["node"] == list(tree.path(node))
        if row["video"] is None:
            assert set(row) == {"prototype", "node", "video"}
        else:
            assert len(row["box"]) == 6 and len(row["peak"]) == len(row["cell"]) == 3 and row["distance"] > 0
            frames = record.frames[row["prototype"]]
            assert row["frames"] == [int(frames.min()), int(frames.max()) + 1]
    assert {row["video"] for row in rows} > {None}


@torch.no_grad()
def test_what_is_kept_is_what_was_seen(tree, loader):
    model = small_hipe(tree)
    seen = torch.cat([model.eval()(batch["clip"]).features for batch in valid_clips(loader, CPU)])
    labels = torch.cat([batch["label"] for batch in valid_clips(loader, CPU)])
    _, kept = push(model, loader, names=NAMES, device=CPU, n_clips=8)
    assert kept.features.dtype == torch.float16
    assert torch.equal(kept.features, seen.half()) and torch.equal(kept.labels, labels)
    part = nn.Sequential(model.trunk, model.neck)
    again = keep_features(part, loader, device=CPU, n_clips=8)  # as after a kill inside the tuning
    assert torch.equal(again.features, kept.features) and torch.equal(again.labels, kept.labels)


@torch.no_grad()
def test_a_shelf_in_a_file_equals_one_in_memory(tree, tmp_path):
    loader = batches()
    _, memory = push(small_hipe(tree), loader, names=NAMES, device=CPU, n_clips=8)
    _, file = push(small_hipe(tree), loader, names=NAMES, device=CPU, n_clips=8, budget=0, folder=tmp_path)
    assert torch.equal(memory.features, file.features) and torch.equal(memory.labels, file.labels)
    assert not list(tmp_path.iterdir())  # the file is gone from the folder, whatever becomes of the run


@torch.no_grad()
def test_activations_are_against_the_prototypes_as_they_are_now(tree):
    model = small_hipe(tree)
    kept = KeptFeatures(torch.rand(5, 6, 2, 4, 4).half(), *[torch.arange(5)] * 3)
    for _ in range(2):
        model.prototype_layer.prototypes.uniform_()
        expected = model.prototype_layer.similarity(model.prototype_layer(kept.features.float())[0])
        assert torch.equal(kept.activations(model.prototype_layer, CPU), expected)
        torch.testing.assert_close(kept.activations(model.prototype_layer, CPU, batch_size=2), expected)


@torch.no_grad()
def test_nothing_readable_is_an_error(tree):
    made = batches()
    for batch in made:
        batch["valid"][:] = False
    model = small_hipe(tree)
    with pytest.raises(ValueError, match="clip"):
        push(model, made, names=NAMES, device=CPU, n_clips=8)
    with pytest.raises(ValueError, match="clip"):
        start_prototypes(model, made, device=CPU, generator=torch.Generator())


# --- the start


@torch.no_grad()
def candidates(model, loader, peaks):
    """(node, clip, cell) -> patch, of the cells that stand highest in the map of the clip's own class."""
    found = {}
    clip = 0
    for batch in valid_clips(loader, CPU):
        trunk = model.trunk(batch["clip"])
        features = model.neck(trunk).flatten(2)
        for b, label in enumerate(batch["label"].tolist()):
            heights = torch.einsum("c,cn->n", model.pooled_head.weight[label], trunk[b].flatten(1)).tolist()
            for cell in sorted(range(len(heights)), key=lambda n, heights=heights: -heights[n])[:peaks]:
                for node in model.ancestors[label].tolist():
                    found[node, clip, cell] = features[b, :, cell]
            clip += 1
    return found


def test_prototypes_start_at_the_peaks_of_their_own_nodes_clips(tree, loader):
    model = small_hipe(tree, per_node=3).eval()
    before = model.prototype_layer.prototypes.detach().clone()
    possible = candidates(model, loader, peaks=3)
    placed = start_prototypes(model, loader, device=CPU, generator=torch.Generator().manual_seed(0))
    count, used = 0, set()
    for p, (node, value) in enumerate(zip(model.prototype_layer.node_of.tolist(), model.prototype_layer.prototypes,
                                          strict=True)):
        own = [key for key, patch in possible.items() if key[0] == node and torch.equal(patch, value)]
        if not any(key[0] == node for key in possible):
            assert torch.equal(value, before[p])  # no clip of the node: its random start
            continue
        assert len(own) == 1 and own[0] not in used  # without replacement
        used.add(own[0])
        count += 1
    assert placed == count > 0


def test_the_start_is_a_function_of_the_generator(tree):
    found = []
    for seed in (0, 0, 1):
        model = small_hipe(tree)
        start_prototypes(model, batches(), device=CPU, generator=torch.Generator().manual_seed(seed), mapped=False)
        found.append(model.prototype_layer.prototypes.detach())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_too_few_candidates_are_no_error(tree):
    """One clip of 2 x 4 x 4 cells: two peaks of it, then other patches, for five prototypes a node; none for others."""
    model = small_hipe(tree, per_node=5)
    before = model.prototype_layer.prototypes.detach().clone()
    generator = torch.Generator().manual_seed(0)
    placed = start_prototypes(model, [noise_batch([2])], device=CPU, generator=generator, peaks=2)
    assert placed == 5 * 3
    moved = (model.prototype_layer.prototypes != before).any(1)
    assert sorted(set(model.prototype_layer.node_of[moved].tolist())) == sorted(tree.path_ids(2))
    assert int(moved.sum()) == 15


@torch.no_grad()
def test_clips_that_the_head_is_sure_of_come_first():
    model = sampling_hipe(Hierarchy.from_rows([["bright", "top"], ["dark", "top"]]), per_node=2)
    model.pooled_head.weight.copy_(torch.tensor([[1.0, 1, 1], [-1, -1, -1]]))
    model.pooled_head.bias.zero_()
    batch = noise_batch([0, 0, 0, 1], size=(4, 8, 8))
    batch["clip"] //= 8
    batch["clip"][1] += 200  # the only clip of "bright" that is
    sure = valid_clips([batch], CPU)
    patches = model.trunk(next(iter(sure))["clip"])[1].flatten(1).T
    for seed in range(5):
        start_prototypes(model, [batch], device=CPU, generator=torch.Generator().manual_seed(seed))
        for value in model.prototype_layer.prototypes[:2]:
            assert (patches == value).all(1).any()


def test_without_a_trained_head_any_patch_of_the_node_will_do(tree):
    model = small_hipe(tree, per_node=3)
    possible = candidates(model.eval(), batches(), peaks=32)
    peaks = candidates(model, batches(), peaks=3)
    start_prototypes(model, batches(), device=CPU, generator=torch.Generator().manual_seed(0), mapped=False)
    off_peak = 0
    for node, value in zip(model.prototype_layer.node_of.tolist(), model.prototype_layer.prototypes, strict=True):
        own = {key for key, patch in possible.items() if key[0] == node and torch.equal(patch, value)}
        assert own or not any(key[0] == node for key in possible)
        off_peak += bool(own) and not own & set(peaks)
    assert off_peak > 10
