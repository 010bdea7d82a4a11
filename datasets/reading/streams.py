"""Which stream of a video file is the film."""

import av
from av.stream import Disposition

PICTURES = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails


def film_of(container: av.container.InputContainer) -> av.VideoStream | None:
    """The film of a file: its first video stream of a known codec that is more than a cover picture or a thumbnail.

    Returns:
        None where there is none; of several that might be, the first one that does not promise a single frame.
    """
    films = [stream for stream in container.streams.video if not stream.disposition & PICTURES]
    known = [stream for stream in films if stream.codec_context is not None]
    several = [stream for stream in known if stream.frames != 1]
    return next(iter(several or known or films), None)
