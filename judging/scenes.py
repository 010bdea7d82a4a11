"""Scenes: the window of a video that is explained, as it is and disturbed, and what is known of the video."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.video import Video, VideoClips
from evaluation.faithfulness import noisy, recompressed
from evaluation.localisation import Tube, read_truth, read_ways
from hierarchy.names import Names

DISTURBANCES = ("noise", "jpeg", "jitter")
TRUTHS = ("truth.json", "boxes.json")


@dataclass(frozen=True)
class Truth:
    """What is known of videos, by their names."""

    tubes: dict[str, list[Tube]]  # where and when the event is to be seen
    ways: dict[str, int]  # in which of several ways a video shows its class

    def of(self, videos: Iterable[Video]) -> "Truth":
        """What is known of some videos, by the videos' own names, whose case, blanks and punctuation do not count."""
        names = [video.name for video in videos]
        return Truth(*({name: value for name in names if (value := of.find(name)) is not None}
                       for of in (Names(self.tubes), Names(self.ways))))


def truth_beside(annotation: Path) -> Path | None:
    """The file of the truth beside an annotation, None where there is none."""
    return next((path for path in map(annotation.with_name, TRUTHS) if path.is_file()), None)


def load_truth(path: Path | None) -> Truth:
    """What a file says of all its videos; nothing without a file."""
    return Truth({}, {}) if path is None else Truth(read_truth(path), read_ways(path))


@dataclass
class Scene:
    """The window of a video that is explained.

    clip: (3, T, H, W), normalised, on the device. frames: (T,) in the video. crop: (4,) in the video's own pixels.
    leaf: predicted of the whole video. disturbed: clips like `clip`, by DISTURBANCES. shift: frames by which the
    jittered clip begins later.
    """

    video: Video
    clip: Tensor
    frames: Tensor
    crop: Tensor
    leaf: int
    disturbed: dict[str, Tensor]
    shift: int


def disturbed(clips: VideoClips, item: dict, seed: int) -> tuple[dict[str, Tensor], int] | None:
    """Make noise, JPEG and a frame's shift of a clip.

    Args:
        item: of `clips`. seed: of the noise.
    Returns:
        clips (3, T, H, W) uint8 by DISTURBANCES, and by how many frames that of the shift is later: 1, or -1 where the
        next frame is missing or damaged; None where the one before is, too.
    """
    pixels, frames, path = item["clip"], item["frames"], clips.videos.path(int(item["video"]))
    for shift in (1, -1):
        if shift == 1 and int(frames.max()) + 1 >= clips.reader.info(path).n_frames:
            continue
        try:
            moved = clips.transform(clips.reader.frames(path, (frames + shift).clamp(min=0)))[0]
        except ValueError:  # the clip itself can be read
            continue
        return {"noise": noisy(pixels, seed), "jpeg": recompressed(pixels), "jitter": moved}, shift
    warnings.warn(f"left out: {path}: the frames before and behind the clip are damaged", RuntimeWarning, stacklevel=2)
    return None


def moved_back(shift: int, stride: int) -> Tensor:
    """(3,) to add to a place in a clip that begins `shift` frames later, whose frames are a stride apart, for the same
    place in the clip that begins at 0."""
    return torch.tensor([shift / stride, 0, 0])


class DisturbedClips(Dataset):
    """Clips of an evaluation dataset with what `disturbed` makes of them, in its order as (3, 3, T, H, W)."""

    def __init__(self, clips: VideoClips, seed: int) -> None:
        self.clips, self.seed = clips, seed

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def clip_bytes(self) -> int:
        """Bytes of an item as loader processes hand it over."""
        return (1 + len(DISTURBANCES)) * self.clips.clip_bytes

    def __getitem__(self, i: int) -> dict:
        item = self.clips[i]
        changed = disturbed(self.clips, item, self.seed) if item["valid"] else None
        if changed is None:
            return item | {"disturbed": torch.stack([item["clip"]] * len(DISTURBANCES)), "shift": 0, "valid": False}
        return item | {"disturbed": torch.stack([changed[0][name] for name in DISTURBANCES]), "shift": changed[1]}
