"""A frame of a video file is what a person sees: upright, of square pixels, in the colours of an ordinary screen."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from media import number_of, shades, write_video
from PIL import Image
from preparing import jpgs, numbers, quits

from datasets.loose import paths_in
from datasets.reading import JpegFolder, VideoFile, VideoInfo
from datasets.reading.loose import LooseFiles
from datasets.reading.resizing import resized, stored_size
from datasets.reading.showing import PEAK, WHITE, _pq
from datasets.transforms import EvalTransform, TrainTransform
from util_scripts import generate_video_jpgs


def write(path, frames, *, codec="libx264", pix_fmt="yuv420p", options=None, into=lambda stream: None):
    """A video of (H, W, 3) frames, or of PyAV's own; `into` sets what the stream tells of itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        frames = [frame if isinstance(frame, av.VideoFrame) else av.VideoFrame.from_ndarray(frame, format="rgb24")
                  for frame in frames]
        stream.height, stream.width, stream.pix_fmt = frames[0].height, frames[0].width, pix_fmt
        into(stream)
        for frame in frames:
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def of_aspect(ratio, rotation=0):
    def into(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(ratio)
        if rotation:
            stream.set_display_rotation(rotation)
    return into


@pytest.mark.parametrize(("ratio", "rotation", "shown"), [
    ("2", 0, (64, 128)), ("1/2", 0, (64, 32)), ("8/9", 0, (64, 57)), ("2", 90, (128, 64)), ("1", 0, (64, 64)),
    ("40", 0, (64, 64)), ("255/254", 0, (64, 64)), ("16/15", 0, (64, 68))])
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_pixels_are_square(tmp_path, name, ratio, rotation, shown):
    path = write(tmp_path / "avi" / "A" / name, shades(6, 64, 64), into=of_aspect(ratio, rotation))
    for reader in (VideoFile(), LooseFiles()):
        assert reader.frames(path).shape == (6, *shown, 3) and reader.size(path) == shown
        assert reader.frames(path, [4, 1]).shape == (2, *shown, 3)
        assert reader.info(path).size == shown
    if not rotation:
        assert number_of(VideoFile().frames(path, [5, 2])) == [5, 2]
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    folder = tmp_path / "jpg" / "A" / "v"
    assert JpegFolder().info(folder) == VideoInfo(6, *shown, 25.0)
    assert JpegFolder().frames(folder).shape == (6, *shown, 3)


def test_an_odd_aspect_keeps_the_picture(tmp_path):
    """The left half stays dark and the right half bright, in the middle."""
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, 30:] = 200
    path = write(tmp_path / "v.mp4", [picture] * 2, options={"crf": "1"}, into=of_aspect("3/2"))
    (shown,) = VideoFile().frames(path, [1]).numpy()
    assert shown.shape == (40, 90, 3)
    assert shown[:, :42].max() < 12 and shown[:, 48:].min() > 188


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
                                    (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0)])
def test_display_matrices_turn_and_mirror(tmp_path, matrix):
    """Against the definition, pixel by pixel: (x, y) is shown at (a x + c y, b x + d y), shifted into view."""
    a, b, c, d = matrix
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24], picture[:16, 24:], picture[16:, :24] = 60, 120, 180

    def into(stream):
        one = 1 << 16
        stream.set_display_matrix([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30])

    path = write(tmp_path / "v.mp4", [picture] * 2, options={"crf": "1"}, into=into)
    ys, xs = np.mgrid[:32, :48]
    to_x, to_y = a * xs + c * ys, b * xs + d * ys
    expected = np.zeros((np.ptp(to_y) + 1, np.ptp(to_x) + 1, 3), int)
    expected[to_y - to_y.min(), to_x - to_x.min()] = picture
    (shown,) = VideoFile().frames(path, [1]).numpy()
    assert shown.shape == expected.shape and VideoFile().size(path) == expected.shape[:2]
    assert np.abs(shown - expected).mean() < 3


def test_the_shorter_side_is_the_size(tmp_path):
    assert stored_size(1920, 1080, 240) == (427, 240)
    assert stored_size(1080, 1920, 240) == (240, 427)
    assert stored_size(480, 854, 240) == (240, 427)
    assert stored_size(500, 500, 240) == (240, 240)
    assert stored_size(240, 100, 240) == (240, 100)
    assert stored_size(2000, 3, 2) == (1333, 2)
    write_video(tmp_path / "avi" / "A" / "v.avi", shades(3, 64, 36))
    jpgs(tmp_path / "avi", tmp_path / "jpg", "--size", 18)
    folder = tmp_path / "jpg" / "A" / "v"
    assert JpegFolder().frames(folder).shape == (3, 32, 18, 3) and JpegFolder().size(folder) == (64, 36)


def test_portrait_frames_of_older_versions_are_made_again(tmp_path, capsys):
    write_video(tmp_path / "avi" / "A" / "v.avi", shades(3, 64, 36))
    jpgs(tmp_path / "avi", tmp_path / "jpg", "--size", 32)
    info = tmp_path / "jpg" / "A" / "v" / "info.json"
    told = json.loads(info.read_text())
    assert (told["stored_height"], told["stored_width"]) == (57, 32)
    info.write_text(json.dumps(told | {"stored_height": 32, "stored_width": 18}))  # 32 pixels high
    capsys.readouterr()
    jpgs(tmp_path / "avi", tmp_path / "jpg", "--size", 32)
    assert numbers(capsys.readouterr().out) == [1, 0, 0]
    jpgs(tmp_path / "avi", tmp_path / "jpg", "--size", 32)
    assert numbers(capsys.readouterr().out) == [0, 1, 0]


@pytest.mark.parametrize(("height", "width"), [(90, 160), (160, 90), (64, 85), (90, 159), (91, 140)])
def test_the_centre_square_of_stored_frames_is_that_of_the_video(height, width):
    """Whether an odd number of pixels is left beside it or not; half a pixel would be most of the difference."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    shown = stored_size(height, width, 60)
    clips = [EvalTransform(48)(torch.from_numpy(frame.copy())[None])[0].float()
             for frame in (picture, resized(picture, shown))]
    assert (clips[0] - clips[1]).abs().mean() < 2  # 9 to 13 without
    other = resized(picture[:height // 2], shown)  # of another shape, as a stream may become midway
    assert other.shape == (*shown, 3)


def checkerboard(height, width):
    return np.repeat(((np.indices((height, width)).sum(0) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)


def test_single_pixels_of_hd_become_an_even_grey_both_ways(tmp_path):
    path = write(tmp_path / "avi" / "A" / "v.mkv", [checkerboard(1080, 1920)] * 2, codec="ffv1")
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    ways = {"file": VideoFile().frames(path), "folder": JpegFolder().frames(tmp_path / "jpg" / "A" / "v")}
    clips = {}
    for name, frames in ways.items():
        for transform in (EvalTransform(112), TrainTransform(112, scales=(0.9, 1.0), flip=False)):
            clip = transform(frames, np.random.default_rng(1))[0].float()
            assert clip.std() < 1 and 120 < clip.mean() < 135, name
            clips[name, type(transform)] = clip
    for kind in (EvalTransform, TrainTransform):
        assert (clips["file", kind] - clips["folder", kind]).abs().max() <= 3


def test_clips_that_do_not_shrink_stay_as_they_were():
    """To the bit, by the resizing that was there before."""
    frames = torch.randint(0, 256, (3, 40, 50, 3), dtype=torch.uint8)
    for size in (40, 41, 64):
        plain = torch.nn.functional.interpolate(frames[:, :, 5:45].permute(0, 3, 1, 2), (size, size), mode="bilinear")
        assert torch.equal(EvalTransform(size)(frames)[0], plain.transpose(0, 1))


def test_shrinking_is_the_mean_under_a_triangle():
    """Against an obvious loop: each pixel is a mean, weighted by a triangle as wide as two pixels of the clip."""
    frames = torch.randint(0, 256, (2, 36, 36, 3), dtype=torch.uint8)
    clip = EvalTransform(12)(frames)[0]
    weights = np.zeros((12, 36))
    for i in range(12):
        for j in range(36):
            weights[i, j] = max(0, 1 - abs((j + 0.5) / 3 - (i + 0.5)))
    weights /= weights.sum(1, keepdims=True)
    expected = np.einsum("yi,xj,tijc->ctyx", weights, weights, frames.numpy())
    assert np.abs(clip.numpy() - expected).max() < 1.5


def hdr(transfer, primaries=None, space=None):
    def into(stream):
        stream.codec_context.color_trc = transfer
        if primaries is not None:
            stream.codec_context.color_primaries = primaries
        if space is not None:
            stream.codec_context.colorspace = space
    return into


def grey10(levels):
    """A frame of vertical stripes of 10-bit luma in the limited range."""
    frame = av.VideoFrame(16 * len(levels), 32, "yuv420p10le")
    for plane, stripes in zip(frame.planes, (levels, [512] * len(levels), [512] * len(levels)), strict=True):
        row = np.repeat(np.array(stripes, "<u2"), plane.width // len(levels))
        rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
        rows[:, :len(row)] = row
        plane.update(rows.tobytes())
    return frame


def luma(signal):
    return [round(64 + 876 * value) for value in signal]


@pytest.mark.parametrize("transfer", [16, 18])
def test_high_dynamic_range_is_mapped_to_a_screen(tmp_path, transfer):
    """White of an HDR picture is bright and below the brightest; what is dark keeps its luminance; grey stays grey."""
    white = _pq(np.array(WHITE)) if transfer == 16 else 0.75
    signal = [0, 0.2, 0.3, float(white), 0.9, 1.0]
    path = write(tmp_path / "v.mkv", [grey10(luma(signal))] * 2, codec="ffv1", pix_fmt="yuv420p10le",
                 into=hdr(transfer))
    (shown,) = VideoFile().frames(path, [1]).numpy().astype(int)
    stripes = shown[16, 8::16]
    assert (np.ptp(stripes, axis=1) <= 1).all()
    grey = stripes[:, 0].tolist()
    assert grey == sorted(grey) and grey[0] == 0 and grey[-1] == 255 and 215 < grey[3] < 245
    if transfer == 16:
        for value, level in zip(signal[1:3], grey[1:3], strict=True):  # below the knee: cd/m2, of a screen of WHITE
            nits = np.interp(value, _pq(np.linspace(0, PEAK, 100001)), np.linspace(0, PEAK, 100001))
            assert abs(level - 255 * (nits / WHITE) ** (1 / 2.4)) < 3
    jpgs_of = tmp_path / "avi" / "A"
    jpgs_of.mkdir(parents=True)
    path.rename(jpgs_of / "v.mkv")
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    (stored,) = JpegFolder().frames(tmp_path / "jpg" / "A" / "v", [1]).numpy().astype(int)
    assert np.abs(stored - shown).mean() < 2


@pytest.mark.parametrize(("primaries", "space"), [(9, 9), (12, 1)])
def test_wide_gamuts_become_that_of_a_screen(tmp_path, primaries, space):
    """A saturated green is clipped to the most saturated one; a pale colour moves away from grey; grey stays."""
    path = write(tmp_path / "v.mkv", [grey10(luma([0.5]))] * 2, codec="ffv1", pix_fmt="yuv420p10le",
                 into=hdr(1, primaries, space))
    (shown,) = VideoFile().frames(path, [0]).numpy().astype(int)
    assert np.abs(shown - 128).max() <= 2
    pale = np.full((32, 48, 3), (110, 140, 110), np.uint8)
    path = write(tmp_path / "w.mkv", [pale] * 2, codec="ffv1", pix_fmt="gbrp10le", into=hdr(1, primaries))
    red, green, blue = VideoFile().frames(path, [0]).numpy()[0, 9, 9].astype(int).tolist()
    assert green > 140 and red < 105 and blue < 113


FORMATS = {"gray": "ffv1", "gray16le": "ffv1", "yuv444p10le": "ffv1", "yuv411p": "ffv1", "yuva420p": "ffv1",
           "bgra": "ffv1", "rgb555le": "rawvideo", "yuyv422": "rawvideo", "yuvj420p": "mjpeg",
           "gbrp": "utvideo", "gbrp10le": "ffv1", "rgb48le": "ffv1", "nv12": "rawvideo"}


@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_formats_of_pixels_are_read_alike(tmp_path, pix_fmt):
    path = write(tmp_path / "v.nut", shades(3, 32, 64), codec=FORMATS[pix_fmt], pix_fmt=pix_fmt)
    frames = VideoFile().frames(path)
    assert frames.shape == (3, 32, 64, 3)
    assert np.abs(frames.numpy().astype(int) - shades(3, 32, 64)).mean((1, 2, 3)).max() < 5
    assert np.abs(np.diff(frames.float().mean((1, 2, 3)).numpy()) - 5).max() < 1.5


def planes(y, u, v):
    return av.VideoFrame.from_ndarray(np.concatenate([np.full((32, 32), y, np.uint8).ravel(), np.full(256, u, np.uint8),
                                                      np.full(256, v, np.uint8)]).reshape(48, 32), format="yuv420p")


def test_colours_by_the_matrix_and_the_range_of_a_file(tmp_path):
    def bt709(stream):
        stream.codec_context.colorspace = 1

    def full(stream):
        stream.codec_context.color_range = 2

    red = planes(63, 102, 240)
    red.colorspace = 1
    grey = planes(16, 128, 128)
    grey.color_range = 2
    red, grey = (VideoFile().frames(write(tmp_path / f"{name}.mp4", [frame], into=into, options={"crf": "1"}))[0, 9, 9]
                 for name, frame, into in (("red", red, bt709), ("grey", grey, full)))
    assert np.abs(red.numpy().astype(int) - (254, 0, 0)).max() <= 2
    assert np.abs(grey.numpy().astype(int) - 16).max() <= 1


ENDINGS = (".mts", ".m2ts", ".ts", ".vob", ".gif", ".asf", ".dv", ".mxf", ".3g2", ".f4v", ".MTS", ".m2v", ".qt")


def test_unusual_endings_are_converted_and_the_others_counted(tmp_path, capsys):
    film = write_video(tmp_path / "made.mp4", shades(4))
    folder = tmp_path / "avi" / "A"
    folder.mkdir(parents=True)
    for i, ending in enumerate(ENDINGS):
        (folder / f"v{i}{ending}").write_bytes(film.read_bytes())
    for name in ("a.xyz", "b.xyz", "notes.txt", ".hidden.xyz"):
        (folder / name).write_bytes(b"0")
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    out, err = capsys.readouterr()
    assert numbers(out) == [len(ENDINGS), 0, 0]
    (line,) = [line for line in err.splitlines() if "left out" in line]
    assert numbers(line)[0] == 3 and ".xyz" in line and ".txt" in line
    assert len(paths_in(tmp_path / "avi")) == len(ENDINGS)
    assert numbers(capsys.readouterr().err)[0] == 3
    for i in range(len(ENDINGS)):
        assert number_of(JpegFolder().frames(tmp_path / "jpg" / "A" / f"v{i}")) == [0, 1, 2, 3]


CONTAINERS = {".mts": "libx264", ".m2ts": "libx264", ".ts": "mpeg2video", ".vob": "mpeg2video", ".asf": "wmv2",
              ".mxf": "mpeg2video", ".3g2": "mpeg4", ".f4v": "libx264", ".m2v": "mpeg2video", ".h264": "libx264"}


@pytest.mark.parametrize("ending", CONTAINERS)
def test_containers_of_unusual_endings_are_read(tmp_path, ending):
    with av.open(str(tmp_path / f"v{ending}"), "w", format="mpegts" if "t" in ending else None) as container:
        stream = container.add_stream(CONTAINERS[ending], rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in shades(6, 48, 64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    path = tmp_path / f"v{ending}"
    assert number_of(VideoFile().frames(path)) == [0, 1, 2, 3, 4, 5] and number_of(VideoFile().frames(path, [4])) == [4]
    assert VideoFile().size(path) == (48, 64)


def test_dv_is_of_oblong_pixels(tmp_path):
    path = write(tmp_path / "v.dv", shades(2, 576, 720), codec="dvvideo")
    assert VideoFile().size(path) == (576, 768) and VideoFile().frames(path, [1]).shape == (1, 576, 768, 3)


def test_a_preview_beside_a_video_is_no_video(tmp_path, capsys):
    write_video(tmp_path / "avi" / "A" / "v.avi", shades(4))
    (tmp_path / "avi" / "A" / "v.gif").write_bytes(b"GIF89a")
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    out, err = capsys.readouterr()
    assert numbers(out) == [1, 0, 0] and ".gif" in err


def test_real_gifs_are_read(tmp_path):
    path = write(tmp_path / "v.gif", shades(4), codec="gif", pix_fmt="rgb8")
    assert VideoFile().frames(path).shape == (4, 24, 32, 3)
    assert np.abs(VideoFile().frames(path).numpy().astype(int) - shades(4)).mean() < 25  # 256 colours


def test_no_videos_but_other_files(tmp_path, capsys):
    (tmp_path / "avi" / "A").mkdir(parents=True)
    (tmp_path / "avi" / "A" / "v.xyz").write_bytes(b"0")
    assert "no video" in quits(capsys, generate_video_jpgs.main, tmp_path / "avi", tmp_path / "jpg", "ucf101")
