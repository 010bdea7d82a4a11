"""Prototypes start at the centres of their class's clusters, ancestors' child by child."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from hierarchy import Hierarchy
from models.hipe import HIPE, Standardise
from models.scores import TreeScore
from training.starts import Starts, _clusters, _in_ways, spread_prototypes

TREE = Hierarchy.from_rows([["a", "legs"], ["b", "legs"], ["c", "legs"], ["d", "arms"], ["e", "arms"]])
N_WAYS, CELLS = 3, 4
CPU = torch.device("cpu")


class Features(nn.Module):
    """A trunk whose clips are features already: a channel for each class, one for each way, two of noise."""

    out_channels, stride = 5 + N_WAYS + 2, (1, 1, 1)

    def forward(self, clips: Tensor) -> Tensor:
        return clips


class Forgetful(Features):
    """Its last part knows nothing but the class."""

    def __init__(self) -> None:
        super().__init__()
        passed = torch.ones(2, self.out_channels)
        passed[1, 5:] = 0
        self.first, self.last = (nn.Conv3d(self.out_channels, self.out_channels, 1, bias=False) for _ in passed)
        self.first.weight.data, self.last.weight.data = passed.diag_embed()[..., None, None, None]

    def forward(self, clips: Tensor) -> Tensor:
        return self.last(self.first(clips))


def made_model(per_node: int = N_WAYS, neck: str = "levels", sure: float = 4.0,
               trunk: type[Features] = Features) -> HIPE:
    torch.manual_seed(0)
    model = HIPE(trunk(), TREE, TreeScore, channels=6, hidden=16, per_node=per_node, neck=neck, scale=0.5)
    with torch.no_grad():
        model.pooled_head.weight.zero_()
        model.pooled_head.bias.zero_()
        model.pooled_head.weight[:, :5] = sure * torch.eye(5)
    return model.eval()


def clips_of(label: int, way: int, n: int, *, strength: float = 10, seed: int = 0) -> dict:
    """Clips of 1 x 2 x 2 cells, of which one shows class and way."""
    generator = torch.Generator().manual_seed(100 * seed + 10 * label + way)
    clip = 0.1 * torch.randn(n, Features.out_channels, CELLS, generator=generator)
    cell = torch.randint(CELLS, (n,), generator=generator)
    clip[torch.arange(n), label, cell] += strength
    clip[torch.arange(n), 5 + way, cell] += 8
    return {"clip": clip.unflatten(2, (1, 2, 2)), "label": torch.full((n,), label), "way": torch.full((n,), way),
            "cell": cell, "valid": torch.ones(n, dtype=torch.bool)}


def joined(*parts: dict, batch_size: int = 7) -> tuple[list[dict], dict]:
    """Batches of mixed clips, each of its own video, and all of them at once."""
    whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    order = torch.randperm(len(whole["label"]), generator=torch.Generator().manual_seed(1))
    whole = {key: values[order] for key, values in whole.items()} | {"video": torch.arange(len(order))}
    edges = [*range(0, len(order), batch_size), len(order)]
    return [{key: values[a:b] for key, values in whole.items()} for a, b in pairwise(edges)], whole


def every_class(n: int = 10, classes: range = range(5)) -> tuple[list[dict], dict]:
    return joined(*(clips_of(label, way, n) for label in classes for way in range(N_WAYS)))


def spread(model: HIPE, loader: list[dict], n_videos: int, **options) -> Starts:
    options = {"seed": 3, "clips_a_way": 5, **options}
    return spread_prototypes(model, loader, n_videos=n_videos, device=CPU, **options)


@torch.no_grad()
def origins(model: HIPE, whole: dict) -> list[tuple[int, int] | None]:
    """Of each prototype the clip and the cell that it is a patch of; None where it is none."""
    layer = model.prototype_layer
    patches = layer.groups(model.neck(model.trunk(whole["clip"])))  # (M, S, C, N)
    found = []
    for prototype, group in zip(layer.prototypes, layer.group_of.tolist(), strict=True):
        distances = (patches[:, group] - prototype[:, None]).square().sum(1)  # (M, N)
        clip, cell = divmod(int(distances.argmin()), CELLS)
        found.append((clip, cell) if float(distances.min()) < 1e-4 else None)
    return found


@pytest.mark.parametrize(("neck", "trunk"), [("levels", Features), ("sigmoid", Features), ("levels", Forgetful)])
def test_a_class_s_prototypes_start_in_different_clusters_and_ways_tell_them(neck, trunk):
    """Also where the trunk's features do not tell the ways, but what an earlier part of it makes."""
    model = made_model(neck=neck, trunk=trunk)
    loader, whole = every_class()
    starts = spread(model, loader, 150)
    assert starts.placed == len(model.prototype_layer.node_of)
    found = origins(model, whole)
    for label in range(5):
        mine = found[N_WAYS * label:N_WAYS * (label + 1)]
        assert all(int(whole["label"][clip]) == label and int(whole["cell"][clip]) == cell for clip, cell in mine)
        shown = [int(whole["way"][clip]) for clip, _ in mine]
        assert sorted(shown) == list(range(N_WAYS))
        for number, way in enumerate(shown):  # a way's number is that of the prototype that starts in it
            videos = whole["video"][(whole["label"] == label) & (whole["way"] == way)]
            assert starts.ways[videos].tolist() == [number] * len(videos)


@pytest.mark.parametrize("per_node", [1, 3, 5, 7])
def test_ancestors_start_at_all_children_in_turn(per_node):
    model = made_model(per_node)
    loader, whole = every_class()
    spread(model, loader, 150, peaks=1)
    found = origins(model, whole)
    for node in (5, 6):
        mine = found[per_node * node:per_node * (node + 1)]
        assert len(set(mine)) == per_node
        assert all(int(whole["cell"][clip]) == cell for clip, cell in mine)
        children = TREE.children(node)
        labels = [int(whole["label"][clip]) for clip, _ in mine]
        counts = [labels.count(child) for child in children]
        assert sum(counts) == per_node and max(counts) - min(counts) <= 1
        assert labels[:len(children)] == list(children)[:per_node]


def test_sure_clips_come_first():
    """Half of the clips show their class so faintly that the head is unsure of them."""
    model = made_model()
    loader, whole = joined(*(clips_of(label, way, 5, strength=strength, seed=int(strength))
                             for label in range(5) for way in range(N_WAYS) for strength in (10, 0.5)))
    starts = spread(model, loader, 150)
    sure = model.pooled_log_probs(whole["clip"]).gather(1, whole["label"][:, None])[:, 0].exp() > 0.5
    assert 0 < int(sure.sum()) < 150
    assert all(sure[clip] for clip, _ in origins(model, whole))
    ways = starts.ways[whole["video"]]
    assert bool((ways[~sure] == -1).all()) and bool((ways[sure] >= 0).all())


def test_where_no_clip_is_sure_prototypes_start_at_peaks_and_there_are_no_ways():
    model = made_model(sure=0.05)
    loader, whole = every_class()
    starts = spread(model, loader, 150)
    found = origins(model, whole)
    assert starts.placed == len(found) and None not in found and bool((starts.ways == -1).all())
    for p, (clip, _) in enumerate(found):
        assert int(model.prototype_layer.node_of[p]) in TREE.path_ids(int(whole["label"][clip]))


def test_two_sure_clips_for_three_prototypes():
    """Not enough for clusters: the sure ones come first, and then others."""
    model = made_model()
    loader, whole = joined(clips_of(0, 0, 2), clips_of(0, 1, 6, strength=0.5),
                           *(clips_of(label, 0, 4) for label in range(1, 5)))
    starts = spread(model, loader, 24, peaks=1)
    sure = (whole["way"] == 0).nonzero()[:, 0].tolist()
    clips = [clip for clip, _ in origins(model, whole)[:3]]
    assert set(clips[:2]) <= set(sure) and clips[2] not in sure and len(set(clips)) == 3
    assert bool((starts.ways[whole["video"][whole["label"] == 0]] == -1).all())


@pytest.mark.parametrize(("clips_a_way", "n_ways"), [(1, 3), (10, 3), (11, 2), (15, 2), (16, 1), (31, 1)])
def test_a_class_has_as_many_ways_as_clips_for_them(clips_a_way, n_ways):
    """Of 30 clips; one way is none."""
    loader, _ = every_class(10)
    ways = spread(made_model(), loader, 150, clips_a_way=clips_a_way).ways
    assert sorted(set(ways.tolist())) == (list(range(n_ways)) if n_ways > 1 else [-1])


@pytest.mark.parametrize("per_node", [3, 4, 6, 8])
def test_prototypes_share_the_ways(per_node):
    """The i-th of a class starts in way i mod W, at a clip of its own."""
    model = made_model(per_node)
    loader, whole = every_class()
    starts = spread(model, loader, 150, clips_a_way=10)
    found = origins(model, whole)
    for label in range(5):
        clips = [clip for clip, _ in found[per_node * label:per_node * (label + 1)]]
        assert len(set(clips)) == per_node
        assert [int(starts.ways[whole["video"][clip]]) for clip in clips] == [i % N_WAYS for i in range(per_node)]
        for way in range(N_WAYS):  # and a way is a cluster of clips that are alike
            videos = whole["video"][(whole["label"] == label) & (whole["way"] == way)]
            assert len(set(starts.ways[videos].tolist())) == 1


@pytest.mark.parametrize(("sizes", "count"), [((9, 5), 4), ((9, 1), 4), ((7, 7, 1), 9), ((6,), 6), ((12,), 5),
                                              ((3, 2, 2), 7)])
@pytest.mark.parametrize("seed", range(3))
def test_starts_in_ways_against_loops(sizes, count, seed):
    """Clips of two coordinates of their way's own: a way with fewer clips than prototypes lends its places."""
    generator = torch.Generator().manual_seed(seed)
    shown = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    shown = shown[torch.randperm(len(shown), generator=generator)]
    angles = 0.3 * torch.rand(len(shown), generator=generator, dtype=torch.float64)
    rows = torch.zeros(len(shown), 2 * len(sizes), dtype=torch.float64)
    for clip, (way, angle) in enumerate(zip(shown.tolist(), angles, strict=True)):
        rows[clip, 2 * way], rows[clip, 2 * way + 1] = angle.cos(), angle.sin()
    picks, ways = _in_ways(rows, count, len(sizes), seed)
    assert len(set(picks.tolist())) == count and int(picks.min()) >= 0
    for way in range(len(sizes)):
        assert len(set(shown[ways == way].tolist())) == 1
        places = [i for i in range(count) if i % len(sizes) == way]
        members = int((ways == way).sum())
        right = [i for i in places if ways[picks[i]] == way]
        assert right == places[:members]


@pytest.mark.parametrize("n_ways", [0, 1])
def test_without_ways_all_clips_are_clustered_together(n_ways):
    rows = torch.nn.functional.normalize(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    picks, ways = _in_ways(rows, 5, n_ways, 1)
    assert torch.equal(picks, _clusters(rows, 5, 1)[0]) and not ways.any()


@pytest.mark.parametrize("seed", range(3))
def test_the_clip_nearest_to_each_centre_is_picked_once(seed):
    """A centre's direction is that of the mean of its clips; what an earlier cluster took is gone."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(20, 4, generator=generator).double(), dim=1)
    picks, clusters = _clusters(rows, 4, seed)
    centres = []
    for cluster in range(4):
        mean = torch.stack([row for row, own in zip(rows, clusters.tolist(), strict=True) if own == cluster]).mean(0)
        centres.append(mean / mean.norm())
    for clip, row in enumerate(rows):
        assert max(range(4), key=lambda k: float(row @ centres[k])) == int(clusters[clip])
    for cluster in range(4):
        free = [clip for clip in range(20) if clip not in picks[:cluster].tolist()]
        assert max(free, key=lambda clip: float(rows[clip] @ centres[cluster])) == int(picks[cluster])


def test_without_class_maps_any_patch_will_do():
    model = made_model(sure=0.0)
    loader, whole = every_class()
    starts = spread(model, loader, 150, mapped=False, sure=0.0)
    found = origins(model, whole)
    assert starts.placed == len(found) and bool((starts.ways == -1).all())
    assert len({cell for _, cell in found}) == CELLS
    assert any(int(whole["cell"][clip]) != cell for clip, cell in found)
    for p, (clip, _) in enumerate(found):
        assert int(model.prototype_layer.node_of[p]) in TREE.path_ids(int(whole["label"][clip]))


def test_nodes_without_clips_keep_their_values():
    model = made_model()
    before = model.prototype_layer.prototypes.detach().clone()
    loader, whole = every_class(classes=range(3))
    starts = spread(model, loader, 90)
    empty = torch.isin(model.prototype_layer.node_of, torch.tensor([3, 4, 6]))
    assert starts.placed == int((~empty).sum())
    after = model.prototype_layer.prototypes.detach()
    assert torch.equal(before[empty], after[empty]) and not (before[~empty] == after[~empty]).all(1).any()


def test_fewer_clips_than_prototypes():
    """Peaks of one clip are taken then, as many as it has."""
    model = made_model(per_node=8)
    loader, _ = joined(*(clips_of(label, 0, 2) for label in range(5)))
    starts = spread(model, loader, 10, peaks=3)
    assert starts.placed == 5 * 6 + 2 * 8  # two clips of three peaks a class; more than eight above


def test_the_neck_is_standardised_by_the_clips_means():
    loader, whole = every_class()
    model, plain = made_model(), made_model()
    spread(model, loader, 150, standardise=True)
    spread(plain, loader, 150)
    means = whole["clip"].mean((2, 3, 4))
    layer = next(part for part in model.neck if isinstance(part, Standardise))
    torch.testing.assert_close(layer.mean, means.mean(0))
    torch.testing.assert_close(layer.deviation, means.std(0, correction=0))
    untouched = next(part for part in plain.neck if isinstance(part, Standardise))
    assert not untouched.mean.any() and bool((untouched.deviation == 1).all())
    assert None not in origins(model, whole)  # prototypes are patches of the standardised features


def test_the_same_seed_gives_the_same_starts():
    loader, whole = every_class()
    models = [made_model() for _ in range(3)]
    one, two, other = (spread(model, loader, 150, seed=seed) for model, seed in zip(models, (3, 3, 4), strict=True))
    prototypes = [model.prototype_layer.prototypes for model in models]
    assert torch.equal(prototypes[0], prototypes[1]) and torch.equal(one.ways, two.ways)
    assert not torch.equal(prototypes[0], prototypes[2]) and one.placed == other.placed


def test_global_randomness_is_left_alone():
    loader, _ = every_class()
    torch.manual_seed(7)
    expected = torch.rand(3)
    model = made_model()
    torch.manual_seed(7)
    spread(model, loader, 150)
    assert torch.equal(torch.rand(3), expected)


def test_a_video_shows_what_its_surest_clip_shows():
    model = made_model()
    loader, whole = joined(*(clips_of(0, way, 12, strength=6 + 2 * way) for way in range(N_WAYS)),
                           *(clips_of(k, 0, 4) for k in range(1, 5)), batch_size=100)
    sure = model.pooled_log_probs(whole["clip"]).gather(1, whole["label"][:, None])[:, 0]
    clips = (whole["label"] == 0).nonzero()[:, 0]
    alone = spread(model, loader, 52).ways[whole["video"]]
    video = whole["video"].clone()
    video[clips] = clips[0] + torch.zeros_like(clips)  # all clips of the class are of one video
    together = spread(made_model(), [{**whole, "video": video}], 52).ways
    surest = int(clips[sure[clips].argmax()])
    assert int(together[clips[0]]) == int(alone[surest])
    assert bool((together[clips[1:]] == -1).all())


def test_nothing_to_read_is_an_error():
    loader, _ = every_class(1)
    for batch in loader:
        batch["valid"][:] = False
    with pytest.raises(ValueError, match="start"):
        spread(made_model(), loader, 15)


def test_clips_that_are_the_same_are_clustered_without_a_warning(recwarn):
    picks, clusters = _clusters(torch.ones(5, 4), 3, 1)
    assert len(set(picks.tolist())) == 3 and clusters.tolist() == [0] * 5 and not recwarn.list
    picks, ways = _in_ways(torch.ones(5, 4), 4, 2, 1)
    assert len(set(picks.tolist())) == 4 and ways.tolist() == [0] * 5 and not recwarn.list
