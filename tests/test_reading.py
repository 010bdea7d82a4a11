"""Readers give exact frames, and name the file that they cannot read."""

import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from media import number_of, real_clips, shades, write_frames, write_video
from PIL import Image

from datasets.reading import CachedReader, JpegFolder, LastVideo, VideoFile, VideoInfo, decode
from datasets.reading.pictures import rgb_of

INFO = {"n_frames": 9, "width": 64, "height": 48, "fps": 12.5}


def jpegs(tmp_path):
    return JpegFolder(), write_frames(tmp_path / "v", shades(9), info=INFO)


def film(tmp_path):
    return VideoFile(), write_video(tmp_path / "v.avi", shades(9))


def cached_jpegs(tmp_path):
    reader, path = jpegs(tmp_path)
    return CachedReader(reader, 10**6), path


def cached_film(tmp_path):
    reader, path = film(tmp_path)
    return CachedReader(reader, 10**6), path


def full(tmp_path):
    reader, path = jpegs(tmp_path)
    return CachedReader(reader, 10), path  # no room for a single video


ALL = pytest.mark.parametrize("make", [jpegs, film, cached_jpegs, cached_film, full])


@ALL
def test_frames_are_the_ones_asked_for_in_that_order(make, tmp_path):
    reader, path = make(tmp_path)
    wanted = torch.tensor([4, 0, 8, 4, 5])
    for _ in range(2):  # before and after it is in memory
        frames = reader.frames(path, wanted)
        assert frames.shape == (5, 24, 32, 3)
        assert frames.dtype == torch.uint8
        assert number_of(frames) == wanted.tolist()
        assert number_of(reader.frames(path)) == list(range(9))
    left, right = frames[:, :, :8].float(), frames[:, :, -8:].float()
    assert (right.mean((1, 2, 3)) - left.mean((1, 2, 3)) > 30).all()  # not mirrored


@ALL
def test_a_frame_beyond_the_end_is_an_error(make, tmp_path):
    reader, path = make(tmp_path)
    for frame in (9, 400):
        with pytest.raises(ValueError, match=str(path)):
            reader.frames(path, [0, frame])


@ALL
def test_a_file_that_is_not_there_is_named(make, tmp_path):
    reader, path = make(tmp_path)
    for ask in (reader.info, reader.size, lambda file: reader.frames(file, [0]), reader.frames):
        with pytest.raises(ValueError, match="nowhere"):
            ask(path.with_name("nowhere"))


@ALL
def test_readers_can_be_sent_to_another_process(make, tmp_path):
    reader, path = make(tmp_path)
    copy = pickle.loads(pickle.dumps(reader))
    assert torch.equal(copy.frames(path, [3]), reader.frames(path, [3]))


def test_info_is_that_of_the_source(tmp_path):
    reader, path = jpegs(tmp_path)
    assert reader.info(path) == VideoInfo(9, 48, 64, 12.5)
    assert reader.size(path) == (48, 64)
    cached = CachedReader(reader, 10**6)
    assert (cached.info(path), cached.size(path)) == (reader.info(path), reader.size(path))
    cached.frames(path)
    assert (cached.info(path), cached.size(path)) == (reader.info(path), reader.size(path))
    reader, path = film(tmp_path)
    assert reader.info(path) == VideoInfo(9, 24, 32, 25.0)
    assert reader.size(path) == (24, 32)


def test_published_folders_without_info_are_read(tmp_path):
    path = write_frames(tmp_path / "v", shades(9))
    assert JpegFolder().info(path) == VideoInfo(9, 24, 32, None)
    assert JpegFolder().size(path) == (24, 32)
    assert number_of(JpegFolder().frames(path)) == list(range(9))


@pytest.mark.parametrize("info", [None, INFO])
def test_a_missing_frame_is_an_error_and_not_skipped(tmp_path, info):
    path = write_frames(tmp_path / "v", shades(9), info=info)
    (path / "image_00005.jpg").unlink()
    with pytest.raises(ValueError, match="image_00005.jpg"):
        JpegFolder().frames(path, [3, 4, 5])
    with pytest.raises(ValueError, match="image_00005.jpg"):
        JpegFolder().frames(path)
    if info is None:
        with pytest.raises(ValueError, match="image_00005.jpg"):
            JpegFolder().info(path)


@pytest.mark.parametrize("damage", [lambda data: data[:len(data) // 2], lambda data: b"no picture", lambda data: b""])
def test_a_damaged_jpeg_is_named(tmp_path, damage):
    path = write_frames(tmp_path / "v", np.random.default_rng(0).integers(256, size=(3, 24, 32, 3), dtype=np.uint8))
    file = path / "image_00002.jpg"
    file.write_bytes(damage(file.read_bytes()))
    assert JpegFolder().frames(path, [0, 2]).shape == (2, 24, 32, 3)
    with pytest.raises(ValueError, match="image_00002.jpg"):
        JpegFolder().frames(path, [0, 1])


def test_grey_jpegs_become_rgb_and_mixed_sizes_are_an_error(tmp_path):
    path = write_frames(tmp_path / "v", shades(3))
    Image.fromarray(shades(3)[1, :, :, 0]).save(path / "image_00002.jpg")
    assert number_of(JpegFolder().frames(path)) == [0, 1, 2]
    Image.fromarray(shades(3, 12, 12)[2]).save(path / "image_00003.jpg")
    with pytest.raises(ValueError, match="differ in size"):
        JpegFolder().frames(path)


def test_an_empty_folder_and_a_damaged_info_are_errors(tmp_path):
    (tmp_path / "v").mkdir()
    with pytest.raises(ValueError, match="image_00001.jpg"):
        JpegFolder().info(tmp_path / "v")
    write_frames(tmp_path / "v", shades(3))
    (tmp_path / "v" / "info.json").write_text('{"n_frames": 3, "wid')
    with pytest.raises(ValueError, match="info.json: damaged"):
        JpegFolder().info(tmp_path / "v")


def test_what_is_no_video_is_named(tmp_path):
    for name, content in (("text.avi", b"no video at all\n" * 50), ("empty.mp4", b"")):
        (tmp_path / name).write_bytes(content)
        for ask in (VideoFile().info, VideoFile().size, VideoFile().frames, lambda path: VideoFile().frames(path, [0])):
            with pytest.raises(ValueError, match=name):
                ask(tmp_path / name)


def test_a_video_that_is_cut_off_keeps_the_frames_before(tmp_path):
    path = write_video(tmp_path / "v.avi", np.random.default_rng(0).integers(256, size=(40, 48, 64, 3), dtype=np.uint8))
    whole = VideoFile().frames(path)
    data = path.read_bytes()
    path.write_bytes(data[:len(data) // 2])
    n = VideoFile().info(path).n_frames
    assert 10 < n < 30
    assert torch.equal(VideoFile().frames(path)[:n - 1], whole[:n - 1])
    with pytest.raises(ValueError, match="v.avi"):
        VideoFile().frames(path, [0, 39])


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_videos_of_turned_phones_are_upright(tmp_path, rotation, turns):
    path = write_video(tmp_path / "v.mp4", shades(3), rotation=rotation)
    upright = np.rot90(shades(3), turns, axes=(1, 2))
    frames = VideoFile().frames(path).numpy()
    assert frames.shape == upright.shape
    assert np.abs(frames.astype(int) - upright).mean() < 4
    assert VideoFile().size(path) == upright.shape[1:3]
    info = VideoFile().info(path)
    assert (info.height, info.width) == upright.shape[1:3]


def test_decoding_takes_one_thread(tmp_path):
    path = write_video(tmp_path / "v.mkv", shades(3), codec="mpeg2video")  # which by default takes several
    assert {stream.codec_context.thread_count for _, stream in decode(path)} == {1}


class Counting(JpegFolder):
    """Counts how often it reads a whole video."""

    def __init__(self):
        self.whole, self.parts = 0, 0

    def frames(self, path, indices=None):
        self.whole += indices is None
        self.parts += indices is not None
        return super().frames(path, indices)


def test_memory_holds_videos_until_its_budget_is_spent(tmp_path):
    paths = [write_frames(tmp_path / str(i), shades(9)) for i in range(3)]
    reader = CachedReader(Counting(), 2 * 9 * 24 * 32 * 3 + 100)
    assert reader.preload(paths, progress=False) == 2
    for _ in range(3):
        for path in paths:
            assert number_of(reader.frames(path, [2, 7])) == [2, 7]
    assert reader.reader.whole <= 3
    assert reader.reader.parts == 3 + 3  # a first look at each, and of the video that did not fit


def test_a_video_larger_than_the_budget_is_never_decoded_whole(tmp_path):
    path = write_frames(tmp_path / "v", shades(9))
    reader = CachedReader(Counting(), 8 * 24 * 32 * 3)
    for _ in range(3):
        assert number_of(reader.frames(path, [2, 7])) == [2, 7]
    assert reader.reader.whole == 0


def test_a_video_with_one_bad_frame_is_read_where_it_is_good(tmp_path):
    path = write_frames(tmp_path / "v", shades(9))
    (path / "image_00009.jpg").write_bytes(b"no picture")
    reader = CachedReader(Counting(), 10**6)
    for _ in range(3):
        assert number_of(reader.frames(path, [2, 7])) == [2, 7]
    with pytest.raises(ValueError, match="image_00009.jpg"):
        reader.frames(path, [8])
    assert reader.reader.whole == 1


def test_preloading_passes_over_what_cannot_be_read(tmp_path):
    paths = [tmp_path / "missing", write_frames(tmp_path / "v", shades(9))]
    assert CachedReader(JpegFolder(), 10**6).preload(paths, progress=False) == 1


def test_writing_into_frames_does_not_reach_the_memory(tmp_path):
    reader, path = cached_jpegs(tmp_path)
    for indices in (None, [0, 1]):
        reader.frames(path, indices).zero_()
        assert number_of(reader.frames(path, [0, 1])) == [0, 1]


def test_real_files_of_several_codecs_are_read_to_the_last_frame():
    files = sorted(real_clips("other").rglob("*.mp4"))[:4]
    files += sorted(real_clips("ucf101").rglob("v_Basketball_g18_c04.avi"))  # its header promises one frame too many
    files += sorted(real_clips("weizmann").rglob("v_Bend_g01_c01.avi"))
    assert len(files) == 6
    for file in files:
        with warnings.catch_warnings(action="error"):
            info = VideoFile().info(file)
            last = VideoFile().frames(file, [info.n_frames - 1])
        assert last.shape == (1, info.height, info.width, 3)
        with pytest.raises(ValueError, match="frame"):
            VideoFile().frames(file, [info.n_frames])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pictures_are_read_as_pillow_reads_them(mode, kind):
    if (mode, kind) == ("CMYK", "PNG"):
        pytest.skip("there is no such file")
    noise = np.random.default_rng(3).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    picture, file = Image.fromarray(noise).resize((53, 37)).convert(mode), io.BytesIO()
    picture.save(file, kind)
    found = rgb_of(file.getvalue(), "name", "remedy")
    expected = np.asarray(Image.open(file).convert("RGB"))
    assert found.flags.c_contiguous and found.shape == (37, 53, 3) and np.array_equal(found, expected)


def test_a_header_that_promises_billions_of_pixels_is_refused():
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(file, "JPEG")
    content = bytearray(file.getvalue())
    at = content.index(b"\xff\xc0") + 5
    content[at:at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ValueError, match="name.*remedy"):
        rgb_of(bytes(content), "name", "remedy")


def test_clips_of_a_short_video_that_follow_each_other_decode_it_once(tmp_path):
    one, other, long = (write_video(tmp_path / f"{name}.avi", shades(9)) for name in ("one", "other", "long"))
    reads = []

    class Counting(VideoFile):
        def frames(self, path, indices=None):
            reads.append((path.stem, indices is None))
            return super().frames(path, indices)

    reader = pickle.loads(pickle.dumps(LastVideo(VideoFile(), {str(one): 9, str(other): 9})))
    reader.reader = Counting()
    for path, indices in ((one, [0, 2]), (one, [8, 3]), (other, [1]), (one, [5]), (long, [4])):
        assert torch.equal(reader.frames(path, torch.tensor(indices)), VideoFile().frames(path, indices))
    assert reads == [("one", True), ("other", True), ("one", True), ("long", False)]
    with pytest.raises(ValueError, match="one.avi"):
        reader.frames(one, [9])
    (broken := tmp_path / "other.avi").write_bytes(b"")
    reader.frames(one, [0])
    with pytest.raises(ValueError, match="other.avi"):
        reader.frames(broken, [0])
    assert reader.info(one) == VideoFile().info(one) and reader.size(one) == VideoFile().size(one)
