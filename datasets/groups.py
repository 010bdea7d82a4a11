"""Videos that must not be on both sides of a split, and the share of them that is held out to calibrate on."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from datasets.sampling import seed_of
from datasets.video import Video, VideoTable

CALIBRATION = "calibration"  # the subset of videos that are held out of training
SHARE = 0.2
_GROUP = re.compile(r"_(g\d+)_c\d+$", re.IGNORECASE)
_RECORDINGS = tuple(re.compile(pattern, re.IGNORECASE) for pattern in (  # what names of its clips have in common
    r"(.+_g\d+)_c\d+",  # UCF-101: class and group
    r"(.+_(?:goo|med|bad))_\d+",  # HMDB51: all but the number at the end, after the quality
    r"(.+)_\d{6}_\d{6}",  # Kinetics: the id, before the times
    r"(.+)-\d+-\d+-F\d+-F\d+",  # EGTEA Gaze+: the session, before the times
    r"(P\d+_\d+)_\d+"))  # EPIC-KITCHENS: the video, before the number of the action
_STREAM = 8  # keeps the choice apart from other draws of the same seed


def recording_of(video: Video) -> str | None:
    """What a video was cut from, by its name, or for a segment its whole video; None where the name does not tell."""
    if video.part_of:
        return video.part_of
    found = (pattern.fullmatch(video.name) for pattern in _RECORDINGS)
    return next((match[1] for match in found if match), None)


def group_of(video: Video) -> str:
    """What a video must not be parted from: UCF-101's g number, whatever the class; else its recording, or itself."""
    found = _GROUP.search(video.part_of or video.name)
    return found[1].lower() if found else recording_of(video) or video.name


def held_out_groups(videos: Sequence[Video], *, seed: int, share: float = SHARE) -> list[str]:
    """Groups of the training videos to hold out: in random order, as long as they come nearer to the share of videos.

    A group without which a class would have no training video stays.

    Args:
        videos: of all subsets. seed: of the order. share: of the training videos, 0..1.
    Returns:
        their names, sorted; the same for the same videos and seed, whatever order the videos come in.
    """
    of_group: dict[str, Counter[int]] = {}
    for video in videos:
        if video.subset == "training":
            of_group.setdefault(group_of(video), Counter())[video.label] += 1
    left = sum(of_group.values(), Counter())
    wanted, held = share * left.total(), []
    names = sorted(of_group)
    for i in seed_of(seed, _STREAM).permutation(len(names)).tolist():
        counts = of_group[names[i]]
        if counts.total() <= 2 * wanted and all(left[label] > n for label, n in counts.items()):
            held.append(names[i])
            wanted -= counts.total()
            left -= counts
    return sorted(held)


def hold_out(videos: VideoTable, groups: Collection[str]) -> VideoTable:
    """The videos, of which the training videos of some groups are of the subset `calibration` now.

    A video's own name is a group, too, as it is in checkpoints from before recordings were known for its data set.
    """
    if not groups:
        return videos
    groups = set(groups)
    return VideoTable(replace(video, subset=CALIBRATION)
                      if video.subset == "training" and not groups.isdisjoint((group_of(video), video.name)) else video
                      for video in videos)
