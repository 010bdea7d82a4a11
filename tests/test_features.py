"""Features of frozen parts: kept in their loader's order, and views of clips that stand where they are looked for."""

import pytest
import torch
from tiny import noise_batch, random_tree, small_hipe

from datasets.sampling import EpochBatches
from training.features import KeptFeatures, NormalisedTwice, Views, keep_features, valid_clips

CPU = torch.device("cpu")


@torch.no_grad()
def test_a_part_is_kept_in_eval_mode_and_in_order():
    model = small_hipe(random_tree(4, 3, 5)).train()
    loader = [noise_batch([0, 1, 2]), noise_batch([3, 4], first=3)]
    loader[0]["valid"][1] = False
    kept = keep_features(model.trunk, loader, device=CPU, n_clips=5)
    expected = torch.cat([model.trunk.eval()(batch["clip"]) for batch in valid_clips(loader, CPU)])
    assert kept.features.dtype == torch.float16 and torch.equal(kept.features, expected.half())
    assert kept.labels.tolist() == [0, 2, 3, 4]


def test_clips_are_mirrored_once_whoever_normalises_them():
    batch = noise_batch([0, 1, 2])
    batch["flip"][1] = batch["valid"][2] = True
    batch["valid"][0] = False
    plain = {**batch, "clip": batch["clip"].clone(), "flip": torch.zeros(3, dtype=torch.bool)}
    plain["clip"][1] = batch["clip"][1].flip(-1)
    for through in (list, NormalisedTwice):
        (one,), (other,) = (valid_clips(through([found]), CPU) for found in (batch, plain))
        assert torch.equal(one["clip"], other["clip"]) and len(one["clip"]) == 2
        assert one["clip"].is_contiguous(memory_format=torch.channels_last_3d)


def test_nothing_readable_is_an_error():
    loader = [noise_batch([0, 1])]
    loader[0]["valid"][:] = False
    with pytest.raises(ValueError, match="clip"):
        keep_features(small_hipe(random_tree(4, 3, 5)).trunk, loader, device=CPU, n_clips=2)


@pytest.mark.parametrize(("n_views", "n_clips", "batch_size"), [(1, 5, 2), (3, 7, 3), (2, 4, 9)])
def test_scheduled_items_stand_where_their_view_was_kept(n_views, n_clips, batch_size):
    views = Views(n_views, n_clips, first=11)
    passes = views.passes(batch_size)
    assert all(0 < len(batch) <= batch_size for batch in passes)
    kept = [one for batch in passes for one in batch]  # what stands where
    assert len(kept) == len(set(kept)) == len(views)
    for epoch in range(11, 18):
        scheduled = [one for batch in EpochBatches(n_clips, batch_size, seed=3, epoch=epoch) for one in batch]
        places = [place for items in views.items(EpochBatches(n_clips, batch_size, seed=3, epoch=epoch))
                  for place in items]
        assert [kept[place] for place in places] == [(11 + (epoch - 11) % n_views, item) for _, item in scheduled]


@pytest.mark.parametrize("size", [2, 3, 8])
def test_shares_of_the_views_make_the_views(size):
    views = Views(3, 7, first=11)
    whole = [one for batch in views.passes(2) for one in batch]
    for rank in range(size):
        batches = views.passes(2, rank, size)
        assert [one for batch in batches for one in batch] == whole[rank::size]
        assert all(0 < len(batch) <= 2 for batch in batches)


def test_batches_are_the_items_asked_for():
    kept = KeptFeatures(torch.rand(6, 3, 1, 2, 2).half(), torch.arange(6), torch.arange(6) // 2, torch.arange(6))
    one, other = kept.batches([[4, 0, 4], [2]], CPU)
    assert one["label"].tolist() == [4, 0, 4] and one["trunk"].dtype == torch.float32
    assert one["video"].tolist() == [2, 0, 2]
    assert torch.equal(one["trunk"], kept.features[[4, 0, 4]].float()) and other["trunk"].shape == (1, 3, 1, 2, 2)
