"""The benchmarks run, and what they print and write are tables."""

import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from program import MODEL, ROWS

from benchmarks import all as everything
from benchmarks import (
    attribution,
    card,
    embeddings,
    feeding,
    frozen,
    methods,
    preparing,
    result_tables,
    spinning,
    trunks,
)
from benchmarks.schedule import costs
from benchmarks.tables import read_csv, saved_tables
from options.flags import parse_main
from options.resolve import resolve


@pytest.mark.parametrize("calls", [
    [["inference"], ["inference"]],
    pytest.param([["step", "schedule", "push", "memory"], ["inference"], ["memory"]], marks=pytest.mark.slow)])
def test_benchmarks_run_and_add_a_row(tmp_path, capsys, calls):
    (tmp_path / "tree.csv").write_text("".join(",".join((*row, "Root")) + "\n" for row in ROWS))
    file = tmp_path / "all.csv"
    line = ["--results", file, "--root_path", tmp_path, "--tree_file", "tree.csv", *MODEL.split(), "--batch_size", 2,
            "--repeats", 1, "--n_threads", 0, "--no_cuda", "--only"]
    for only in calls:
        everything.main([str(word) for word in [*line, *only]])
    head, *rows = read_csv(file)
    assert len(rows) == len(calls) and {len(row) for row in rows} == {len(head)}
    text = file.read_text()
    out = capsys.readouterr().out
    asked = {name for only in calls for name in only}
    for word, name in (("training step", "step"), ("published schedule", "schedule"), ("push / evaluation", "push"),
                       ("search's memory", "memory"), ("inference, bf16", "inference")):
        assert (word in text) == (name in asked), name
    assert ("GFLOP/s" in out) == ("step" in asked) and ("MB" in out) == ("memory" in asked)


@pytest.mark.slow
def test_attribution_is_timed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [
        "x", "--model_depth", "10", "--batches", "1", "--iterations", "1", "--repeats", "1", "--sample_size", "32",
        "--pyramids", "MF-Net", "--device", "cpu"])
    attribution.main()
    rows = re.findall(r"^\| (?:1|[\d.]+|MF-Net) \|.*$", capsys.readouterr().out, re.MULTILINE)
    assert len(rows) == 3 and all(re.search(r"\d\.?\d*", row) for row in rows)


def test_methods_are_timed(data, whole, capsys):
    videos = sorted((data / "jpg" / "Run").iterdir())[:2]
    methods.main([str(whole), *map(str, videos), "--methods", "occlusion", "grad", "rollout", "--device", "cpu"])
    printed = capsys.readouterr()
    rows = re.findall(r"^\| ([a-z_]+) \| [\d.e+-]+ \| [\d.e+-]+ \| (\d+) \| (\d+) \|$", printed.out, re.MULTILINE)
    assert sorted(rows) == [("grad", "0", "1"), ("occlusion", "344", "0")]
    assert "rollout is left out" in printed.err


@pytest.mark.slow
def test_what_needs_a_gpu_runs_on_a_cpu_too(tmp_path, capsys):
    small = "--batch_size 2 --sample_size 32 --sample_duration 8 --model_depth 10 --repeats 1"
    line = ["--out", str(tmp_path), "--no_cuda", "--only", "roofline", "syncbn", "gpu", "--flags"]
    figures = card.main([*line, small, "--no_compile"])
    page = (tmp_path / "card.md").read_text()
    assert page in capsys.readouterr().out
    assert {name.partition(":")[0] for name in figures} == {"roofline"}
    for part, word in (("gpu", "CUDA"), ("syncbn", "GPU")):
        assert f"| {part} | exit code 2 |" in page and word in (tmp_path / f"{part}.txt").read_text()


@pytest.mark.slow
def test_what_a_loader_feeds(capsys):
    line = ("--n_videos 3 --workers 0 1 --storage packed --sizes 64 --batches 1 --batch_size 2 --no_cuda --sample_size"
            " 32 --sample_duration 8 --model_depth 10 --repeats 1")
    rates = feeding.main(line.split())
    rows = re.findall(r"^\| packed, 64 pixels \| (\d) \|", capsys.readouterr().out, re.MULTILINE)
    assert len(rates) == len(rows) and all(rate > 0 for rate in rates.values())


def test_a_part_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="--only rooflin"):
        card.main(["--out", str(tmp_path), "--only", "rooflin"])


@pytest.mark.slow
def test_threads_that_wait_are_timed(capsys):
    spinning.main(["--turns", "1", "--steps", "1", "--n_threads", "0", "--busy", "1"])
    row = r"^\| 0 \| ([01]) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$"
    rows = re.findall(row, capsys.readouterr().out, re.MULTILINE)
    assert rows == ["0", "1"]


@pytest.mark.slow
def test_trunks_are_timed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [
        "x", "--models", "tsm_mobilenetv2", "--sample_size", "32", "--sample_duration", "4", "--batch_size", "1",
        "--repeats", "1", "--device", "cpu"])
    trunks.main()
    row = r"^\| tsm_mobilenetv2 \| 4 x 32 x 32 \| 2.22 \|.*\| \d+ \|$"
    assert re.search(row, capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_trunks_join_those_that_were_measured_before(monkeypatch, tmp_path, capsys):
    """Rows of others stay, those of the same trunk and clip are replaced, other columns go into another file."""
    def measured(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["x", "--sample_duration", "4", "--save", str(tmp_path / "t.csv"), *words])
        with saved_tables("trunks", keys=2):
            trunks.main()

    monkeypatch.setattr(trunks, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(trunks, "measure", lambda args, own: {"clips_per_s": speeds[-1], "megabytes": 7})
    speeds = []
    for speed, size in ((1, "64"), (2, "64"), (3, "32")):
        speeds.append(speed)
        measured("--models", "tsm_mobilenetv2", "--sample_size", size)
    measured("--models", "mfnet", "--sample_size", "64")
    head, *rows = read_csv(tmp_path / "t.csv")
    assert [(row[0], row[1], row[head.index("cells")], row[-2]) for row in rows] == [
        ("mfnet", "4 x 64 x 64", "8", "3.00"), ("tsm_mobilenetv2", "4 x 32 x 32", "4", "3.00"),
        ("tsm_mobilenetv2", "4 x 64 x 64", "16", "2.00")]
    index = (tmp_path / "README.md").read_text()
    assert "--models mfnet" in index and "--models tsm_mobilenetv2 --sample_size 32" in index.replace(
        "--sample_duration 4 ", "")
    for words in (["--no_time"], ["--frozen"], ["--batch_size", "5"]):
        measured("--models", "mfnet", "--sample_size", "64", *words)
    assert len(read_csv(tmp_path / "t.csv")) == 4
    assert {path.name for path in tmp_path.glob("*.csv")} == {"t.csv", "t_2.csv", "t_3.csv", "t_4.csv"}
    with pytest.raises(ValueError, match="too small"):
        measured("--models", "s3d", "--sample_size", "6")
    assert len(read_csv(tmp_path / "t.csv")) == 4


@pytest.mark.slow
def test_embeddings_are_measured(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--nodes", "126", "20", "--dims", "4"])
    embeddings.main()
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| 126", "| 20"]
    assert {row.count("|") for row in rows} == {head.count("|")}


@pytest.mark.slow
def test_preparing_is_timed(capsys):
    preparing.main(["--n_videos", "1", "--size", "32", "--repeats", "1"])
    said = capsys.readouterr().out
    assert re.search(r"^ours +\d+ frames/s$", said, re.MULTILINE)
    assert ("ours / ffmpeg" in said) != ("no ffmpeg here" in said)


def test_a_second_row_stands_under_the_first(tmp_path):
    file = tmp_path / "all.csv"
    for value in ("1", "2"):
        everything.add_row(file, {"date": "today", "ratio": value})
    everything.add_row(file, {"date": "today", "other": "3"})
    assert read_csv(file) == [["date", "ratio", "other"], ["today", "1", ""], ["today", "2", ""], ["today", "", "3"]]


def test_the_cost_of_a_schedule_is_counted():
    """Of the published one: 10 warm and 190 joint epochs, 20 pushes; here 19, as no warm epoch ends with one."""
    args, _ = parse_main([])
    args = resolve(args)
    price = dict.fromkeys(("trunk", "evaluation", "push", "warm"), 1.0) | {
        "training": 3.0, "warm, cached": 0.0, "tuning": 0.01}
    rows = costs(args, price)
    assert rows["start of the prototypes"] == (3, 0, 0)
    assert rows["warm epochs"] == (4, 10, 10) and rows["joint epochs"] == (570, 570, 570)
    assert rows["pushes"] == (21, 20, 20)  # three clips a video in the last of 19
    assert rows["tuning"] == pytest.approx((63, 400, 1200))  # 300 passes here, 20 there


def test_methods_that_were_not_measured_again_keep_their_figures(tmp_path):
    file = tmp_path / "results" / "comparison_demo.csv"
    first = result_tables.cells({
        "published": [{"accuracy": 0.5, "deletion: grad": 0.25}, {"accuracy": 0.7, "deletion: grad": 0.5}],
        "ours": [{"accuracy": 0.9, "set size: grad": 3.0}] * 2})
    assert result_tables.stored_cells(file) == {}
    result_tables.store(file, first, what="three, of them", command="python -m benchmarks.results", no_cuda=True)
    stored = result_tables.stored_cells(file)
    assert stored == {method: {name: pytest.approx(figure) for name, figure in column.items()}
                      for method, column in first.items()}
    assert str(stored["published"]["accuracy"]) == "0.600 (0.500 to 0.700)"
    again = stored | result_tables.cells({"ours": [{"accuracy": 1.0}]})
    result_tables.store(file, again, what="again", command="again", no_cuda=True)
    assert "| accuracy | 0.600 (0.500 to 0.700) | 1.000 |" in result_tables.table(result_tables.stored_cells(file))
    assert "set size" not in file.read_text()
    index = (file.parent / "README.md").read_text()
    assert index.count("comparison_demo.csv](comparison_demo.csv)") == 1 and "again" in index and "PyTorch" in index


@pytest.mark.slow
def test_a_frozen_trunk_is_timed(tmp_path, capsys):
    flags = ("--videos 1 --trunk_epochs 2 --n_epochs 2 --warm_epochs 1 --tune_iterations 1 --push_clips 1 "
             "--n_val_samples 1 --no_cuda --no_img --n_threads 0")
    ratio = frozen.main(["--work", str(tmp_path), *flags.split()])["trunk in every epoch / once"]
    rows = re.findall(r"^\| (every epoch|once) \| ([\d.]+) \| [\d.]+ \|$", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, _ in rows] == ["every epoch", "once"]
    assert ratio == pytest.approx(float(rows[0][1]) / float(rows[1][1]), rel=0.05)
