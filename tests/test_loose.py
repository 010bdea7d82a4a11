"""datasets/loose.py: videos without an annotation."""

import numpy as np
from PIL import Image

from datasets.reading import CachedReader
from datasets.reading.loose import LooseFiles


def test_frames_are_read_in_the_order_of_their_numbers(tmp_path):
    for i, name in enumerate(("f2.png", "f10.png", "f1.png")):
        Image.fromarray(np.full((4, 6, 3), 10 * i, np.uint8)).save(tmp_path / name)
    reader = CachedReader(LooseFiles(), 10 ** 6)
    assert reader.frames(tmp_path)[:, 0, 0, 0].tolist() == [20, 0, 10]
    assert reader.info(tmp_path).n_frames == 3 and reader.size(tmp_path) == (4, 6)
