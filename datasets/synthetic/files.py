"""The embedded data set on disk: videos, UCF-101's lists, the hierarchy and the truth."""

import csv
import functools
import io
import json
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from datasets.synthetic.classes import MIN_FRAMES, MIN_SIZE, SETS
from datasets.synthetic.drawing import render
from datasets.synthetic.scenes import make_scene
from machine.processes import process_pool
from machine.writing import replacing, write_text

FPS = 25
WAY_SHARE = 0.5  # default share of way 1 of two


def write_avi(path: Path, frames: np.ndarray) -> None:
    """Write (T, H, W, 3) uint8 RGB frames as MPEG-4 in AVI, finely quantised, so that small objects stay sharp."""
    with replacing(path, durable=False) as part, av.open(str(part), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=FPS, options={"qmin": "1", "qmax": "3", "g": "8"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def video_name(label: int, group: int, clip: int = 1, *, differ: str = "both") -> str:
    """UCF-101's name of a video, without folder and ending: v_Class_gGG_cCC."""
    return f"v_{SETS[differ][label].name}_g{group:02d}_c{clip:02d}"


def training_ways(seed: int, label: int, n_groups: int, share: float) -> np.ndarray:
    """Which of two ways the training videos of a class show.

    Way 1 has share * 2 * n_groups of them, rounded, and either way has at least one. They are second clips first, and
    first clips when no second clip is left. Which groups show it differs from class to class; the groups of a small
    share are among those of a larger one.

    Args:
        label: index into CLASSES. n_groups: of training. share: of way 1, in (0, 1).
    Returns:
        (n_groups, 2) of 0 and 1, for clips 1 and 2 of every group.
    """
    n_clips = 2 * n_groups
    ways = np.zeros((2, n_groups), dtype=int)  # of the second clips, of the first clips
    ways.flat[: min(max(round(share * n_clips), 1), n_clips - 1)] = 1
    return ways[::-1, np.random.default_rng((seed, 4, label)).permutation(n_groups)].T


def _write_video(task: tuple[Path, int, int, int, int, int | None, int, int, str]) -> tuple[str, dict]:
    folder, seed, label, group, clip, way, n_frames, size, differ = task
    scene = make_scene(seed, label, group, clip, way=way, n_frames=n_frames, size=size, differ=differ)
    frames, boxes = render(scene)
    name, class_name = video_name(label, group, clip, differ=differ), SETS[differ][label].name
    write_avi(folder / class_name / f"{name}.avi", frames)
    first, last = scene.frames
    tube = {"first_frame": first, "last_frame": last, "boxes_x_y_w_h": [list(box) for box in boxes]}
    shown = {} if way is None else {"way": way}
    return name, {"class": class_name, **shown, "n_frames": n_frames, "tubes": [tube]}


def _check(seed: int, n_train_groups: int, n_test_groups: int, frames: int, size: int, ways: int,
           way_share: float | None, n_jobs: int, differ: str) -> None:
    if differ not in SETS:
        raise ValueError(f"--differ {differ}: choose one of {', '.join(SETS)}")
    if differ in ("motion", "object") and ways != 1:
        raise ValueError(f"--differ {differ} shows its classes in one way; leave --ways out")
    if frames < MIN_FRAMES:
        raise ValueError(f"--frames {frames} is too short for an event: give at least {MIN_FRAMES}")
    if size < MIN_SIZE or size % 2:
        raise ValueError(f"--size {size} cannot be drawn and encoded: give an even number of at least {MIN_SIZE}")
    if min(n_train_groups, n_test_groups, n_jobs) < 1 or seed < 0:
        raise ValueError("--n_train_groups, --n_test_groups and --n_jobs must be at least 1, and --seed at least 0")
    if ways not in (1, 2):
        raise ValueError(f"--ways {ways} is not available: give 1, or 2 for two kinds of every object")
    if way_share is not None and ways == 1:
        raise ValueError(f"--way_share {way_share:g} needs a second way: give --ways 2 as well")
    if way_share is not None and not 0 < way_share < 1:
        raise ValueError(f"--way_share {way_share:g} leaves one way out: give a number between 0 and 1, both exclusive")


def make_demo_dataset(
    out_dir: str | Path,
    *,
    seed: int = 1,
    n_train_groups: int = 24,
    n_test_groups: int = 12,
    frames: int = 40,
    size: int = 72,
    ways: int = 1,
    way_share: float | None = None,
    n_jobs: int = 2,
    differ: str = "both",
) -> None:
    """Write the data set: `ways` videos of every class in every group, UCF-101's lists, the hierarchy and the truth.

    Leaves `videos/<Class>/v_<Class>_gGG_cCC.avi`, `ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt`,
    `hierarchy.csv` and `truth.json` in `out_dir`. Training groups are numbered from 1, the test groups follow. Same
    arguments, same bytes, whatever `n_jobs`.

    Args:
        frames: length of every video. size: its height and width in pixels, even.
        ways: 1 or 2, in how many ways the event of every class shows itself. Of two, clip 1 of a group shows the first
            and clip 2 the second, but for the training clips that `way_share` decides otherwise about.
        way_share: share of way 1 in the training clips of every class, in (0, 1), as `training_ways` deals it, with
            two ways only; None is WAY_SHARE. Test clips always show both ways evenly.
        n_jobs: processes; 1 stays in this one.
        differ: what differs from class to class: "both" object and motion, or one of them alone; "others": both, in
            pairs that are no class otherwise (see SETS).

    Raises:
        ValueError: lengths too small to show a motion, a number of ways or a share out of its range, or `out_dir`
            holds videos that are not of this data set.
    """
    out_dir = Path(out_dir)
    _check(seed, n_train_groups, n_test_groups, frames, size, ways, way_share, n_jobs, differ)
    acts = SETS[differ]
    videos = out_dir / "videos"
    groups = range(1, n_train_groups + n_test_groups + 1)
    clip_ways = [[(None,)] * len(groups)] * len(acts)  # the way of every clip of every group of every class
    if ways == 2:
        share = WAY_SHARE if way_share is None else way_share
        clip_ways = [
            [*training_ways(seed, label, n_train_groups, share).tolist(), *[(0, 1)] * n_test_groups]
            for label in range(len(acts))
        ]
    tasks = [
        (videos, seed, label, group, clip, way, frames, size, differ)
        for group in groups
        for label in range(len(acts))
        for clip, way in enumerate(clip_ways[label][group - 1], 1)
    ]
    wanted = {
        videos / acts[label].name / f"{video_name(label, group, clip, differ=differ)}.avi"
        for _, _, label, group, clip, *_ in tasks
    }
    foreign = sorted(path for path in set(videos.glob("*/*")) - wanted if path.suffix != ".part")
    if foreign:
        raise ValueError(f"{foreign[0]} is not of this data set; choose another folder")
    for name, *_ in acts:
        (videos / name).mkdir(parents=True, exist_ok=True)

    progress = functools.partial(tqdm, total=len(tasks), desc="videos", unit="", disable=None)
    if n_jobs == 1:
        truth = dict(progress(map(_write_video, tasks)))
    else:
        with process_pool(n_jobs, get_context("spawn")) as pool:
            truth = dict(progress(pool.map(_write_video, tasks, chunksize=len(acts))))

    lists = out_dir / "ucfTrainTestlist"
    lists.mkdir(exist_ok=True)
    names = [act.name for act in acts]
    write_text(lists / "classInd.txt", "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    for file, chosen, labelled in (
        ("trainlist01.txt", groups[:n_train_groups], True),
        ("testlist01.txt", groups[n_train_groups:], False),
    ):
        lines = (
            f"{name}/{video_name(label, group, clip, differ=differ)}.avi" + (f" {label + 1}" if labelled else "")
            for label, name in enumerate(names)
            for group in chosen
            for clip in range(1, ways + 1)
        )
        write_text(lists / file, "".join(line + "\n" for line in lines))
    tree = io.StringIO()
    csv.writer(tree, lineterminator="\n").writerows(
        (act.name, *act.above, "Root") for act in acts
    )
    write_text(out_dir / "hierarchy.csv", tree.getvalue())
    # written last: a folder with truth.json is complete
    write_text(out_dir / "truth.json", json.dumps(dict(sorted(truth.items()))), durable=True)
