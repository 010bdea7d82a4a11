"""A file is whole or not there, whatever the disk says, and every script says which file cannot be written."""

import ast
import errno
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from limited import in_child, limit, sentence
from media import shades, write_frames, write_video
from program import ROWS, call, explain_classes, fresh, go_on, refused, train

import evaluate_explanations
import local_attribution
import machine.writing
from datasets.synthetic.files import make_demo_dataset
from machine.writing import (
    append_line,
    check_writable,
    naming,
    replacing,
    sweep,
    write_bytes,
    write_text,
    write_whole,
)
from tests.test_architecture import MODULES
from training import checkpoint
from training.checkpoint import newest_whole
from training.log import Log
from training.schedule import Step
from util_scripts import (
    activitynet_hierarchy,
    add_fps_into_activitynet_json,
    fit_embeddings,
    generate_video_hdf5,
    generate_video_jpgs,
    make_report,
    pack_frames,
    prune,
    ucf101_json,
)

FULL = limit(resource.RLIMIT_FSIZE, 64)  # bytes; semaphores of process pools are files, too, and smaller


def test_what_is_written_appears_whole(tmp_path):
    path = tmp_path / "deep" / "folder" / "ünï 动作.json"
    write_text(path, "ä\ud800", durable=True)
    assert path.read_bytes() == "ä?".encode()
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == [path.name]


def test_the_longest_name_that_a_file_can_have(tmp_path):
    path = tmp_path / ("ö" * 125 + ".png")
    write_bytes(path, b"drawn")
    assert path.read_bytes() == b"drawn" and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), RuntimeError(
    "[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), ValueError("of the content")])
def test_whatever_happens_the_old_file_stays(tmp_path, error):
    path = tmp_path / "opts.json"
    write_text(path, "old")
    with pytest.raises(OSError if isinstance(error, RuntimeError) else type(error)) as caught, replacing(path) as part:
        part.write_bytes(b"half")
        raise error
    if isinstance(error, OSError | RuntimeError):
        assert str(path) in str(caught.value) and "free some space" in str(caught.value)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["opts.json"]


def test_a_full_disk_is_named_in_plain_words():
    for error in (OSError(errno.ENOSPC, "No space left on device", "x.part"),
                  RuntimeError("Can't write data (file write failed: time = now, errno = 28, error message = 'No')"),
                  RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file")):
        with pytest.raises(OSError, match=r"^a.pth: cannot be written \(No space left on device\); free"), naming(
                "a.pth", RuntimeError):
            raise error


@pytest.mark.parametrize(("error", "said"), [
    (OSError("problem writing element 15360 to file"), "(No space left on device); free some space, or"),
    (OSError("512 requested and 128 written"), "(No space left on device); free some space, or"),
    (OSError(errno.EDQUOT, "quota"), "free some space, or choose another folder"),
    (OSError(errno.EROFS, "Read-only file system"), "(Read-only file system); choose another folder"),
    (PermissionError(errno.EACCES, "Permission denied"), "(Permission denied); choose another folder"),
    (NotADirectoryError(errno.ENOTDIR, "no"), "(a part of its path is a file); choose another folder")])
def test_space_is_the_remedy_where_it_is_the_trouble(error, said):
    with pytest.raises(OSError) as caught, naming("a.npy"):
        raise error
    assert str(caught.value) == f"a.npy: cannot be written {said}" or said in str(caught.value)
    assert ("space" in str(caught.value)) == ("space" in said)


@pytest.mark.parametrize("write", [
    lambda path: write_whole(path, lambda file: torch.save(torch.zeros(9999), file)),
    lambda path: write_whole(path, lambda file: np.savez_compressed(file, a=np.random.default_rng(1).random(999))),
    lambda path: write_text(path, "x" * 9999), lambda path: append_line(path, "x" * 9999)])
def test_a_disk_without_room(tmp_path, write):
    path = tmp_path / "a.pth"
    path.write_bytes(b"old\n")
    said = sentence(in_child(lambda: write(path), FULL))
    assert str(path) in said and "File too large" in said
    assert path.read_bytes() == b"old\n" and os.listdir(tmp_path) == ["a.pth"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL),
                                              (signal.SIGINT, 130)])
def test_a_signal_in_the_middle_of_a_write(tmp_path, number, code):
    """What is left is removed at once, or by the next run an hour later."""
    path = tmp_path / "val.json"
    write_text(path, "old")

    def half(file) -> None:
        file.write(b"half")
        os.kill(os.getpid(), number)

    def default() -> None:  # as a script that is started has it
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, signal.SIG_DFL if one == signal.SIGTERM else signal.default_int_handler)

    ended = in_child(lambda: write_whole(path, half), default)
    assert ended.code == code and "Traceback" not in ended.said
    assert path.read_text() == "old"
    sweep(tmp_path, untouched=-1)
    assert os.listdir(tmp_path) == ["val.json"]


@pytest.mark.parametrize("place", ["a_file", "a_file/below", "a_file/deep/below"])
def test_a_path_through_a_file(tmp_path, place):
    (tmp_path / "a_file").write_text("someone's")
    for attempt in (lambda: check_writable(tmp_path / place), lambda: write_text(tmp_path / place / "x.json", "{}")):
        with pytest.raises(OSError, match="a_file.*is a file"):
            attempt()
    assert (tmp_path / "a_file").read_text() == "someone's"


# --- every script


def given(data: Path, folder: Path) -> dict[str, str]:
    """What the scripts read."""
    names = ["Root", "A" * 40, "B" * 40]
    taxonomy = [{"nodeId": i, "nodeName": name, "parentId": 0 if i else None, "parentName": "Root" if i else None}
                for i, name in enumerate(names)]
    (folder / "net.json").write_text(json.dumps({"taxonomy": taxonomy, "database": {
        "v": {"subset": "training", "annotations": [{"label": names[1], "segment": [0, 1]}]}}}))
    (folder / "lists").mkdir()
    for name, text in (("classInd", "".join(f"{i} {row[0]}\n" for i, row in enumerate(ROWS, 1))),
                       ("trainlist01", "Run/v_Run_g00_c01.avi 1\n"), ("testlist01", "Run/v_Run_g01_c01.avi\n")):
        (folder / "lists" / f"{name}.txt").write_text(text)
    write_video(folder / "avi" / "v.avi", shades(9))
    write_frames(folder / "frames" / "v", shades(9), info={"n_frames": 9, "height": 24, "width": 32, "fps": 9})
    return {"net": str(folder / "net.json"), "lists": str(folder / "lists"), "avi": str(folder / "avi"),
            "frames": str(folder / "frames"), "jpg": str(data / "jpg"), "tree": str(data / "tree.csv"),
            "new": str(folder / "new")}


SCRIPTS = {
    "generate_video_jpgs": (generate_video_jpgs.main, "{avi} {new} kinetics --n_jobs 1"),
    "generate_video_hdf5": (generate_video_hdf5.main, "{jpg} {new} --n_jobs 1"),
    "pack_frames": (pack_frames.main, "{jpg} {new}"),
    "ucf101_json": (ucf101_json.main, "{lists} {jpg} {new}"),
    "activitynet_hierarchy": (activitynet_hierarchy.main, "{net} {new}/tree.csv"),
    "add_fps": (add_fps_into_activitynet_json.main, "{frames} {net} {new}/net.json"),
    "make_demo_dataset": (lambda words: make_demo_dataset(*words, n_train_groups=1, n_test_groups=1, n_jobs=1),
                          "{new}"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_on_a_full_disk(data, tmp_path, script):
    main, line = SCRIPTS[script]
    paths = given(data, tmp_path)
    said = sentence(in_child(lambda: main(line.format(**paths).split()), FULL))
    assert paths["new"] in said and "File too large" in said
    assert not [path for path in Path(paths["new"]).rglob("*") if path.is_file()]


def test_an_embedding_on_a_full_disk(data, tmp_path, monkeypatch):
    line = f"fit {data / 'tree.csv'} {tmp_path / 'new' / 'e.pth'} --dim 8 --plot {tmp_path / 'new' / 'e.png'}"
    monkeypatch.setattr("sys.argv", line.split())
    assert "e.pth" in sentence(in_child(fit_embeddings.main, FULL))
    assert not os.listdir(tmp_path / "new")


def report(results: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["make_report", "--result_path", str(results)])
        make_report.main()


def bytes_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("script", [
    "local_analysis", pytest.param("local_attribution", marks=pytest.mark.slow), pytest.param(
        "evaluate", marks=pytest.mark.slow), "prune", "report", "inference"])
def test_what_is_made_of_a_model_on_a_full_disk(whole, tmp_path, script):
    shutil.copytree(whole, tmp_path / "results")
    results, before = tmp_path / "results", bytes_in(tmp_path)
    newest = newest_whole(results)
    work = {
        "local_analysis": lambda: explain_classes("--resume_path", newest, "--n_videos", "1"),
        "local_attribution": lambda: local_attribution.main(
            [*f"--resume_path {newest} --n_videos 1 --vis_method grad_cam --no_cuda --out".split(),
             str(results / "new")]),
        "evaluate": lambda: evaluate_explanations.main(
            f"--resume_path {newest} --n_videos 1 --steps 1 --methods --no_cuda".split()),
        "prune": lambda: prune.main(f"--resume_path {newest} --least 0 --no_cuda --n_threads 0".split()),
        "report": lambda: report(results),
        "inference": lambda: go_on(results, "--no_train --inference"),
    }[script]
    said = sentence(in_child(work, FULL))
    assert str(results) in said and "File too large" in said
    assert bytes_in(tmp_path) == before


def test_a_disk_that_fills_while_a_run_trains(data, tmp_path, monkeypatch):
    """After the first checkpoint nothing more can be written: it stays, and a run goes on from it."""
    save = checkpoint.save_checkpoint

    def save_and_fill(path: Path, content: dict) -> None:
        save(path, content)
        if path.name == "save_1.pth":
            FULL()

    monkeypatch.setattr("run.state.save_checkpoint", save_and_fill)
    said = sentence(in_child(lambda: train(data, tmp_path / "results")))
    assert str(tmp_path / "results") in said and "File too large" in said
    assert newest_whole(tmp_path / "results").name == "save_1.pth"
    assert not list((tmp_path / "results").rglob("*.part"))
    monkeypatch.undo()
    go_on(tmp_path / "results")
    assert newest_whole(tmp_path / "results").name == "save_3.pth"


def test_features_that_do_not_fit_on_the_disk(data, tmp_path):
    line = [*fresh(data, tmp_path / "results"), "--trunk_epochs 0 --warm_epochs 1 --ft_begin_module fc"]
    said = sentence(in_child(lambda: call(*line), limit(resource.RLIMIT_FSIZE, 20_000)))
    assert "features" in said or ".pth" in said


def test_a_log_on_a_full_disk_keeps_whole_lines(tmp_path):
    log = Log(tmp_path, None)
    log.add("trunk", Step("trunk", 1, 0), loss=1.0)
    before = log.path.read_bytes()
    said = sentence(in_child(lambda: log.add("trunk", Step("trunk", 2, 0), loss=2.0),
                             limit(resource.RLIMIT_FSIZE, len(before) + 9)))
    assert "metrics.jsonl" in said and log.path.read_bytes() == before


def test_tensorboard_on_a_full_disk(tmp_path):
    pytest.importorskip("tensorboard")

    def work() -> None:
        log = Log(tmp_path, None, tensorboard=True)
        for epoch in range(1, 99):
            log.writer.add_scalar("loss", 1.0, epoch)
            with naming(tmp_path / "tensorboard"):
                log.writer.flush()

    said = sentence(in_child(work, FULL))
    assert "tensorboard" in said


def test_a_result_path_that_is_a_file(data, tmp_path, capsys):
    (tmp_path / "results").write_text("someone's")
    for place in ("results", "results/below"):
        error = refused(capsys, *fresh(data, tmp_path / place))
        assert str(tmp_path / place) in error and "is a file" in error
    assert (tmp_path / "results").read_text() == "someone's"


def test_a_folder_that_only_others_may_write_to(data, tmp_path, capsys, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "somewhere")

    monkeypatch.setattr(machine.writing.tempfile, "TemporaryFile", denied)
    error = refused(capsys, *fresh(data, tmp_path / "results"))
    assert str(tmp_path / "results") in error and "Permission denied" in error and "permissions" in error


# --- what the sources do


# Modules that write otherwise, and why a half-written file does no harm there.
OTHERWISE = {"machine.writing", "models.pip_fetch",  # whose caller moves the file
             "training.stored",  # rows, which an index counts
             "training.distributed", "benchmarks.memory",  # devices
             "util_scripts.storing",  # a folder of frames that is moved, and shards that are
             "datasets.reading.packed",  # into a file that its caller makes whole
             "util_scripts.check_dataset"}  # a temporary file
SAVES = {("np", "save"), ("np", "savez"), ("np", "savez_compressed"), ("torch", "save")}


def writes(tree: ast.AST) -> list[int]:
    """The lines that write a file in place."""
    within = {id(node) for function in ast.walk(tree) if isinstance(function, ast.Lambda)
              for node in ast.walk(function)}
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = node.func.value.id if isinstance(node.func, ast.Attribute) and isinstance(
            node.func.value, ast.Name) else ""
        modes = [word.value for word in [*node.args, *(key.value for key in node.keywords if key.arg == "mode")]
                 if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        opened = name == "open" and owner not in ("av", "Image", "tarfile") and any(
            set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)
        saved = (owner, name) in SAVES and id(node) not in within
        if isinstance(node.func, ast.Attribute) and name in ("write_text", "write_bytes", "to_csv") and (
                name != "to_csv" or node.args) or opened or saved:
            lines.append(node.lineno)
    return lines


def test_the_scan_finds_what_writes_in_place():
    for line in ("path.write_text('x')", "open(p, 'w')", "p.open('ab')", "np.save(p, a)", "frame.to_csv(p)"):
        assert writes(ast.parse(line)), line
    for line in ("write_text(p, 'x')", "open(p)", "p.open('rb')", "write_whole(p, lambda f: np.save(f, a))"):
        assert not writes(ast.parse(line)), line


def test_every_file_is_written_whole():
    for module in sorted(set(MODULES) - OTHERWISE):
        if not module.startswith("benchmarks.fuzz."):  # which spoils files
            lines = writes(ast.parse(MODULES[module].read_text(encoding="utf-8")))
            assert not lines, f"{module}:{lines}: use machine.writing"
