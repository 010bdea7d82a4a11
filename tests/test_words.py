"""options/words.py: names that begin with a hyphen are values, and misspelt flags are not."""

import os
import subprocess
import sys

import pytest
from program import ROOT

from local_attribution import parse
from options.analysis import parse_analysis
from options.flags import parse_main


def test_names_that_begin_with_a_hyphen():
    args, given = parse(["--videos", "-0r0HwAYiQ", "-BYIRq", "--07WQ2iBlw", "plain", "--n_videos", "2", "--out", "-res",
                         "--target", "-t", "--root_path=-r"])
    assert args.videos == ["-0r0HwAYiQ", "-BYIRq", "--07WQ2iBlw", "plain"] and args.n_videos == 2
    assert (args.out, args.target, args.root_path) == ("-res", "-t", "-r")
    assert given == {"videos", "n_videos", "out", "target", "root_path"}
    args, _ = parse(["--video", "-x.mp4", "-hello.mp4", "--windows", "3"])
    assert list(map(str, args.video)) == ["-x.mp4", "-hello.mp4"] and args.windows == 3
    args, _ = parse_analysis("local_analysis.py", "", ["--resume_path", "-a.pth", "--video", "-x.mp4", "--k", "2"])
    assert (args.resume_path, str(args.video), args.k) == ("-a.pth", "-x.mp4", 2)
    args, _ = parse_main(["--video_path", "-jpg", "--annotation_path", "-1.json", "--n_threads", "0"])
    assert (args.video_path, args.annotation_path, args.n_threads) == ("-jpg", "-1.json", 0)


@pytest.mark.parametrize(("words", "named"), [
    ("--videos a --vidoes b", "--videos"), ("--vidoes -a", "--videos"), ("--videos a -n_videos 3", "--n_videos"),
    ("--videos -a --Videos b", "--videos"), ("--videos", "--videos"), ("--out --videos a", "--out"),
    ("--target -a -b", "-b"), ("--n_videos -a", "--n_videos")])
def test_what_is_no_name_is_refused(words, named):
    with pytest.raises(ValueError, match=named):
        parse(words.split())


def test_a_name_that_looks_like_a_flag_is_given_behind_an_equals_sign():
    assert parse(["--videos=--windows"])[0].videos == ["--windows"]


@pytest.mark.parametrize("script", ["util_scripts/kinetics_json.py", "main.py"])
def test_scripts_run_by_their_path_beside_another_package_of_the_name(tmp_path, script):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("raise SystemExit('another package')")
    ran = subprocess.run([sys.executable, ROOT / script, "--help"], cwd=tmp_path, capture_output=True, text=True,
                         check=False, env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"})
    assert ran.returncode == 0 and "usage" in ran.stdout, ran.stderr
