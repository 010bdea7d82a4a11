"""Groups of videos that stay on one side of a split, and which of them are held out to calibrate on."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from datasets.dataset import Dataset
from datasets.sampling import seed_of
from datasets.video import Video, VideoTable

CALIBRATION = "calibration"  # the subset of videos that are held out of training
SHARE = 0.2
_STREAM = 8  # keeps the choice apart from other draws of the same seed


def person_of(video: Video, dataset: Dataset) -> str | None:
    """Who is in a video, in lower case; None where its name does not tell."""
    match = dataset.person and re.search(dataset.person, video.part_of or video.name, re.IGNORECASE)
    return match[1].lower() if match else None


def recording_of(video: Video, dataset: Dataset) -> str | None:
    """What a video was cut from, for a segment its whole video; None where its name does not tell."""
    if video.part_of:
        return video.part_of
    match = dataset.recording and re.fullmatch(dataset.recording, video.name, re.IGNORECASE)
    return match[1] if match else None


def group_of(video: Video, dataset: Dataset) -> str:
    """The group of a video, which stays on one side of a split: its person, else its recording, else the video alone.
    """
    return person_of(video, dataset) or recording_of(video, dataset) or video.name


def ungrouped(name: str, dataset: Dataset, videos: Iterable[Video]) -> str | None:
    """A sentence about a data set of which no video's name tells a person or a recording; else None."""
    if any(person_of(video, dataset) or recording_of(video, dataset) for video in videos):
        return None
    return (f"the names of --dataset {name} do not tell which videos show the same person or recording, so each video "
            "is a group of its own; state `person` or `recording` in datasets/__init__.py")


def held_out_groups(videos: Sequence[Video], dataset: Dataset, *, seed: int, share: float = SHARE) -> list[str]:
    """Groups of the training videos to hold out, in random order while they come nearer to the share of videos.

    A group stays where a class would have no training video without it.

    Args:
        videos: of all subsets. dataset: states the groups. seed: of the order. share: of the training videos, 0..1.
    Returns:
        their names, sorted; the order of the videos does not matter.
    """
    of_group: dict[str, Counter[int]] = {}
    for video in videos:
        if video.subset == "training":
            of_group.setdefault(group_of(video, dataset), Counter())[video.label] += 1
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


def hold_out(videos: VideoTable, groups: Collection[str], dataset: Dataset) -> VideoTable:
    """Move the training videos of some groups to the subset `calibration`.

    A video's own name counts as a group too, as in checkpoints from before its data set stated recordings.
    """
    if not groups:
        return videos
    groups = set(groups)

    def held(video: Video) -> bool:
        return video.subset == "training" and not groups.isdisjoint((group_of(video, dataset), video.name))

    return VideoTable(replace(video, subset=CALIBRATION) if held(video) else video for video in videos)
