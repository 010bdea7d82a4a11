"""What states a data set: its reader, and how its names tell who is in a video and what it was cut from."""

from collections.abc import Callable
from dataclasses import dataclass

from datasets.video import VideoTable


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Patterns are regular expressions that ignore case; group 1 is the name. None where names do not tell.

    Args:
        read: (annotation, folder of videos, tree, file_type=, strict=) -> videos of all subsets.
        person: who is in a video, whatever its class; found anywhere in the video's name.
        recording: what a clip was cut from; matches the whole name. A segment knows its video without a pattern.
    """

    read: Callable[..., VideoTable]
    person: str | None = None
    recording: str | None = None
