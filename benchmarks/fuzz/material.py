"""Sound inputs of every kind, small enough that a case takes a fraction of a second."""

import json
import shutil
import warnings
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from benchmarks.fuzz.forked import Ended, run

ROWS = (("Run", "Legs", "Body"), ("Wave", "Arms", "Body"), ("Saw", "Tool", "Thing"))
CODECS = {".avi": "mpeg4", ".mp4": "libx264", ".webm": "libvpx", ".mpg": "mpeg2video", ".mkv": "mjpeg"}
HEIGHT, WIDTH, FRAMES, FPS = 36, 48, 12, 10
N_TRAIN, N_TEST = 2, 1


def words(*lines: str) -> list[str]:
    """The words of some lines."""
    return [word for line in lines for word in line.split()]


NETWORK = words("--model_depth 10 --resnet_widen_factor .125 --conv1_t_size 3 --spatial_strides 2 2 2 1 1")
CLIPS = words("--sample_size 32 --sample_duration 8")
MODEL = [*NETWORK, *CLIPS, *words("--prototype_channels 6 --prototypes_per_node 2 --emb_dim 8")]
DATA = words("--root_path . --video_path jpg --annotation_path ucf101_01.json --tree_file tree.csv")
QUICK = words("--trunk_epochs 1 --warm_epochs 0 --n_epochs 1 --tune_iterations 1 --batch_size 6 --push_clips 1",
              "--ways_clips 1")
CALL = words("--n_threads 0 --no_cuda --no_img")


def frames_of(label: int, group: int) -> np.ndarray:
    """(T, H, W, 3) uint8: noise, and a square that goes a way of its class."""
    rng = np.random.default_rng((label, group))
    frames = rng.integers(90, size=(1, HEIGHT, WIDTH, 3)) + rng.integers(9, size=(FRAMES, 1, 1, 3))
    for t in range(FRAMES):
        y, x = (3 + 2 * t, 20) if label % 2 else (14, 4 + 3 * t)
        frames[t, y:y + 9, x:x + 9, label % 3] = 250
    return frames.astype(np.uint8)


def write_video(path: Path, frames: np.ndarray) -> None:
    """A video file, by the codec that its ending has in CODECS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if CODECS[path.suffix] == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _names() -> list[tuple[int, int, str]]:
    return [(label, group, f"v_{row[0]}_g{group:02d}_c01") for label, row in enumerate(ROWS)
            for group in range(N_TRAIN + N_TEST)]


def _videos(root: Path) -> None:
    for i, (label, group, name) in enumerate(_names()):
        frames, cls = frames_of(label, group), ROWS[label][0]
        folder = root / "jpg" / cls / name
        folder.mkdir(parents=True)
        for t, frame in enumerate(frames, 1):
            Image.fromarray(frame).save(folder / f"image_{t:05d}.jpg", quality=90)
        info = {"n_frames": FRAMES, "height": 2 * HEIGHT, "width": 2 * WIDTH, "fps": FPS}
        (folder / "info.json").write_text(json.dumps(info))
        write_video(root / "video" / cls / f"{name}{list(CODECS)[i % len(CODECS)]}", frames)


def _lists(root: Path) -> None:
    """The official lists of every data set, of these videos."""
    names, classes = _names(), [row[0] for row in ROWS]
    train, test = ([(label, name) for label, group, name in names if (group < N_TRAIN) == training]
                   for training in (True, False))
    texts = {
        "ucf/classInd.txt": "".join(f"{i} {name}\n" for i, name in enumerate(classes, 1)),
        "ucf/trainlist01.txt": "".join(f"{classes[i]}/{name}.avi {i + 1}\n" for i, name in train),
        "ucf/testlist01.txt": "".join(f"{classes[i]}/{name}.avi\n" for i, name in test),
        "kinetics/train.csv": "label,youtube_id,time_start,time_end,split\n" + "".join(
            f"{classes[i]},{name},0,10,train\n" for i, name in train),
        "kinetics/val.csv": "label,youtube_id,time_start,time_end,split\n" + "".join(
            f"{classes[i]},{name},0,10,val\n" for i, name in test),
        "moments/trainingSet.csv": "".join(f"{classes[i]}/{name}.mp4,{classes[i]},3,1\n" for i, name in train),
        "moments/validationSet.csv": "".join(f"{classes[i]}/{name}.mp4,{classes[i]},3,1\n" for i, name in test),
        "egtea/action_idx.txt": "".join(f"{name} {i}\n" for i, name in enumerate(classes, 1)),
        "egtea/train_split1.txt": "".join(f"{name} {i + 1} 1 1\n" for i, name in train),
        "egtea/test_split1.txt": "".join(f"{name} {i + 1} 1 1\n" for i, name in test),
        "epic/EPIC_100_verb_classes.csv": "id,key,instances\n" + "".join(
            f"{i},{name},\"['{name}']\"\n" for i, name in enumerate(classes))}
    for i, cls in enumerate(classes):
        texts[f"hmdb/{cls}_test_split1.txt"] = "".join(
            f"{name}.avi {1 if (label, name) in train else 2} \n" for label, _, name in names if label == i)
    header = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,verb_class\n"
    for part, rows in (("train", train), ("validation", test)):
        texts[f"epic/EPIC_100_{part}.csv"] = header + "".join(
            f"{name}_0,{classes[i]},{name},00:00:00.10,00:00:01.00,2,10,{i}\n" for i, name in rows)
    texts["something/labels.json"] = json.dumps({name: str(i) for i, name in enumerate(classes)})
    for part, rows in (("train", train), ("validation", test)):
        texts[f"something/{part}.json"] = json.dumps([
            {"id": f"{classes[i]}/{name}", "label": name, "template": classes[i]} for i, name in rows])
    taxonomy, ids = [{"nodeId": 0, "nodeName": "Root", "parentId": None, "parentName": None}], {}
    for row in ROWS:
        for above, name in zip(("Root", *row[::-1]), row[::-1], strict=False):
            if name not in ids:
                ids[name] = len(taxonomy)
                taxonomy.append({"nodeId": ids[name], "nodeName": name, "parentId": ids.get(above, 0),
                                 "parentName": above})
    texts["activitynet.json"] = json.dumps({"taxonomy": taxonomy, "version": "1.3", "database": {
        f"{name[2:]}": {"subset": "training" if group < N_TRAIN else "validation", "duration": FRAMES / FPS, "url": "",
                        "annotations": [{"segment": [0.1, 1.0], "label": classes[label]}]}
        for label, group, name in names}})
    texts["tree.csv"] = "".join(",".join((*row, "Root")) + "\n" for row in ROWS)
    texts["classes.json"] = json.dumps(classes)
    texts["truth.json"] = json.dumps({name: {"class": classes[label], "n_frames": FRAMES, "tubes": [{
        "first_frame": 2, "last_frame": 8, "boxes_x_y_w_h": [[8 + 3 * t, 28, 18, 18] for t in range(6)]}]}
        for label, _, name in names})
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def _layouts(root: Path) -> None:
    """The videos as other data sets lay them out: side by side, with their seconds in the name, in sessions."""
    for label, _, name in _names():
        cls = ROWS[label][0]
        for target in (root / "flat" / name, root / "seconds" / cls / f"{name}_000000_000010",
                       root / "sessions" / name / name):
            shutil.copytree(root / "jpg" / cls / name, target)


def _weights(root: Path) -> None:
    """Weights of a trunk with their head, wrapped as others wrap them, and the annotation of tubes as a pickle."""
    content = torch.load(root / "results" / "save_1.pth", weights_only=True)["model"]
    state = {f"module.{key.removeprefix('trunk.')}": value for key, value in content.items()
             if key.startswith("trunk.")}
    channels = next(value.shape[0] for key, value in reversed(state.items()) if value.dim())
    state |= {"module.fc.weight": torch.rand(len(ROWS), channels), "module.fc.bias": torch.zeros(len(ROWS))}
    torch.save({"epoch": 3, "model_state": state}, root / "weights.pth")


def make(root: Path, log: Path) -> None:
    """Fill a folder.

    Raises:
        RuntimeError: where a script fails on sound inputs.
    """
    root.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _videos(root)
    _lists(root)
    _layouts(root)

    def step(script: str, *line: str) -> None:
        ended: Ended = run(script, line, folder=root, log=log)
        if ended.code:
            raise RuntimeError(f"{script} {' '.join(line)}: exit code {ended.code}: {ended.text[-2000:]}")

    step("util_scripts.ucf101_json", "ucf", "jpg", ".")
    step("util_scripts.generate_video_hdf5", "jpg", "hdf5", "--n_jobs", "1")
    step("util_scripts.pack_frames", "jpg", "packed", "--shard_gb", "3e-5")
    step("util_scripts.add_fps_into_activitynet_json", "flat", "activitynet.json", "activitynet_fps.json")
    step("util_scripts.fit_embeddings", "tree.csv", "embeddings.pth", "--dim", "8", "--epochs", "5")
    step("main", *DATA, "--result_path", "results", *MODEL, *QUICK, *CALL, "--inference")
    _weights(root)
