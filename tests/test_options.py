"""Flags: which were given, what depends on what, and what contradicts what."""

import argparse
import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from options.flags import FIRST, data_flags, model_flags, parse_main, run_flags, schedule_flags
from options.recipes import CALL_FLAGS, LEGACY, RECIPES, WEIGHT_FLAGS
from options.resolve import resolve

DATA = "--root_path ~/data --video_path UCF-101-JPEG --annotation_path ucf101_01.json --dataset ucf101"
PUBLISHED = [
    f"{DATA} --result_path results --model resnet --model_depth 18 --n_classes 101 --batch_size 128 --n_threads 4 "
    "--checkpoint 5",
    f"{DATA} --resume_path results/save_100.pth --model_depth 18 --n_classes 101 --batch_size 128 --n_threads 4 "
    "--checkpoint 5",
    f"{DATA} --result_path results --resume_path results/save_200.pth --model_depth 18 --n_classes 101 --n_threads 4 "
    "--no_train --no_val --inference --output_topk 5 --inference_batch_size 1"]


def resolved(line: str) -> argparse.Namespace:
    args, _ = parse_main(line.split())
    return resolve(args)


@pytest.mark.parametrize("line", PUBLISHED)
def test_published_command_lines(line):
    args, given = parse_main(line.split())
    args = resolve(args)
    assert given == {word.removeprefix("--") for word in line.split() if word.startswith("--")}
    assert (args.model_depth, args.n_classes) == (18, 101)


def test_published_defaults():
    args = resolved("")
    expected = {"n_epochs": 200, "warm_epochs": 10, "batch_size": 128, "inference_batch_size": 1,
                "inference_stride": 16, "n_val_samples": 3, "output_topk": 5, "checkpoint": 10, "manual_seed": 1,
                "sample_size": 112, "sample_duration": 16, "n_threads": 4, "push_start": 10, "push_every": 10,
                "tune_iterations": 300, "prototypes_per_node": 6, "score": "tree",
                "root_path": ".", "tree_file": "UCF-101_hierarchy.csv", "c": 1,
                "prototype_channels": 64, "temporal_strides": [1, 2, 2, 1, 1], "spatial_strides": [2, 2, 2, 2, 2]}
    assert {name: getattr(args, name) for name in expected} == expected
    embedded = resolved("--score hyperbolic")
    expected |= {"tune_iterations": 20, "prototypes_per_node": 10, "prototype_channels": 128, "score": "hyperbolic"}
    assert {name: getattr(embedded, name) for name in expected} == expected
    weighted = resolved("--pretrain_path kinetics.pth")
    expected = {"learning_rate": 0.001, "warm_learning_rate": 0.003, "momentum": 0.9, "weight_decay": 1e-5,
                "multistep_milestones": [50, 100, 150], "trunk_epochs": 5, "optimizer": "sgd",
                "lr_scheduler": "multistep"}
    assert {name: getattr(weighted, name) for name in expected} == expected


def test_given_flags_are_told_from_defaults():
    assert parse_main([])[1] == set()
    line = "--n_epochs 200 --no_train --ce_weight 1 .5 --T 2"  # 200 is the default, and given
    args, given = parse_main(line.split())
    assert given == {"n_epochs", "no_train", "ce_weight", "T"}
    assert (args.n_epochs, args.no_train, args.ce_weight, args.T) == (200, True, [1, 0.5], 2)
    assert args.no_val is False and args.warm_epochs == 10
    for score, weight in (("tree", [0.5]), ("cosine", [0.8, 0.5, 0.3])):  # of the score, where nobody gives another
        assert resolved(f"--score {score}").cluster_weight == weight
        assert resolved(f"--score {score} --cluster_weight .25").cluster_weight == [0.25]


def test_ways_and_even_weights_are_of_the_scores_that_take_the_largest():
    for score, ways, even in (("tree", 4, 1), ("tree_hyperbolic", 4, 1), ("hyperbolic", 0, 0), ("linear", 0, 0)):
        args = resolved(f"--score {score}")
        assert (args.ways_weight, args.even_weight, args.ways_clips) == (ways, even, 25)
    assert resolved("--paper").even_weight == 0


def test_recipes_depend_on_the_pretrained_weights():
    assert RECIPES["pretrained"].keys() == RECIPES["scratch"].keys()
    for name, line in (("scratch", ""), ("pretrained", "--pretrain_path x.pth")):
        args = resolved(line)
        assert {key: getattr(args, key) for key in RECIPES[name]} == RECIPES[name]
    args = resolved("--pretrain_path x.pth --trunk_epochs 0 --learning_rate .5 --trunk_optimizer adam")
    assert (args.trunk_epochs, args.learning_rate, args.trunk_optimizer) == (0, 0.5, "adam")
    assert args.warm_learning_rate == RECIPES["pretrained"]["warm_learning_rate"]


def test_strides_from_their_own_flags():
    assert resolved("--conv1_t_stride 2").temporal_strides == [2, 2, 2, 1, 1]
    assert resolved("--temporal_strides 2 1 1 1 1 --conv1_t_stride 2").temporal_strides == [2, 1, 1, 1, 1]
    without = resolved("--no_max_pool")
    assert (without.temporal_strides, without.spatial_strides) == ([1, 1, 2, 1, 1], [2, 1, 2, 2, 2])
    assert resolved("--no_max_pool --spatial_strides 1 1 2 2 2").spatial_strides == [1, 1, 2, 2, 2]
    once = resolved("--no_max_pool --conv1_t_stride 2")
    before = (list(once.temporal_strides), list(once.spatial_strides))
    once = resolve(once)  # as a resumed run does with what its checkpoint carries
    assert (once.temporal_strides, once.spatial_strides) == before


@pytest.mark.parametrize(("line", "depth", "temporal"), [
    ("", 18, [1, 2, 2, 1, 1]), ("--model resnext", 50, [1, 2, 2, 1, 1]), ("--model densenet", 121, [1, 2, 2, 1, 1]),
    ("--model r3d_18", 18, [1, 1, 2, 2, 2]), ("--model i3d", None, [2, 1, 1, 2, 2]), ("--model swin3d_t", None, None)])
def test_depth_and_strides_of_a_trunk(line, depth, temporal):
    args = resolved(line)
    assert (args.model_depth, args.temporal_strides) == (depth, temporal)
    before = vars(args).copy()
    args = resolve(args)  # as a resumed run does
    assert vars(args) == before


@pytest.mark.parametrize(("line", "words"), [
    ("--conv1_t_stride 2 --temporal_strides 1 2 2 1 1", ("--conv1_t_stride 2", "--temporal_strides 1")),
    ("--no_max_pool --temporal_strides 1 2 2 1 1", ("--no_max_pool", "--temporal_strides")),
    ("--no_max_pool --spatial_strides 2 2 2 2 2", ("--no_max_pool", "--spatial_strides")),
    ("--batch_size 0", ("--batch_size", "0")),
    ("--sample_duration -3", ("--sample_duration", "-3")),
    ("--n_epochs -1", ("--n_epochs", "-1")),
    ("--n_threads -1", ("--n_threads",)),
    ("--manual_seed -1", ("--manual_seed",)),
    ("--focus 0", ("--focus", "above 0")),
    ("--momentum 1", ("--momentum", "below 1")),
    ("--ce_weight 1 -1", ("--ce_weight", "-1")),
    ("--merge_coverage .9 2", ("--merge_coverage", "at most 1")),
    ("--learning_rate 0", ("--learning_rate", "above 0")),
    ("--push_start 1.5", ("--push_start", "1.5")),
    ("--push_start -5", ("--push_start", "at least 0")),
    ("--weight_decay nan", ("--weight_decay", "nan")),
    ("--last_scale nan", ("--last_scale", "nan")),
    ("--manual_seed 99999999999999999999", ("--manual_seed", "at most")),
    ("--background 1.5", ("--background", "1.5")),
    ("--train_crop_min_scale 0", ("--train_crop_min_scale",)),
    ("--spatial_strides 2 2 0 1 1", ("--spatial_strides",)),
    ("--c 0", ("--c ", "above 0")),
    ("--edge -1", ("--edge",)),
    ("--resnet_widen_factor 0", ("--resnet_widen_factor",)),
    *((f"--score hyperbolic --{flag} {value}", (f"--{flag}", "above 0", value))
      for flag in ("resnet_widen_factor", "T", "c", "edge", "window_power") for value in ("inf", "nan")),
    ("--window_power 0", ("--window_power", "above 0")),
    ("--T 0", ("--T ", "above 0")),
    *((f"--conv1_t_size {size}", ("--conv1_t_size", "odd", size)) for size in ("-1", "0", "4")),
    ("--model s3d --model_depth 18", ("--model s3d", "--model_depth 18", "leave")),
    ("--model resnext --model_depth 18", ("--model resnext", "50, 101")),
    ("--model densenet --resnet_shortcut A", ("--resnet_shortcut", "densenet")),
    ("--model resnet --wide_resnet_k 3", ("--wide_resnet_k", "resnet")),
    ("--model mvit_v2_s --temporal_strides 1 1 1 1 1", ("--temporal_strides", "mvit_v2_s")),
    ("--model i3d --conv1_t_stride 1", ("--conv1_t_stride", "i3d")),
    ("--model i3d --no_max_pool", ("--no_max_pool", "i3d")),
    ("--freeze_bn", ("--freeze_bn", "--ft_begin_module")),
])
def test_contradictions_and_ranges(line, words):
    with pytest.raises(ValueError) as caught:
        resolved(line)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["--n_epoch 3", "--epochs 3", "--model vgg", "--model_depth 17", "--n_epochs many",
                                  "--temporal_strides 1 2"])
def test_unknown_flags_and_values(line):
    with pytest.raises(ValueError, match=line.split()[0]) as caught:
        resolved(line)
    assert "\n" not in str(caught.value) and str(caught.value).endswith("see main.py --help")


def test_lists_of_flags_name_flags():
    names = set(vars(parse_main([])[0]))
    assert set(WEIGHT_FLAGS) <= names and set(CALL_FLAGS) | set(LEGACY) <= names and set(RECIPES["scratch"]) <= names
    assert not set(WEIGHT_FLAGS) & set(CALL_FLAGS)


def test_every_flag_has_a_help_text_that_fits_its_default():
    parser = argparse.ArgumentParser()
    for add in (data_flags, model_flags, schedule_flags, run_flags):
        add(parser)
    assert {action.dest for action in parser._actions} >= FIRST
    for action in parser._actions:
        assert action.help, action.option_strings
        if isinstance(action.default, int | float) and not isinstance(action.default, bool):
            text = action.help % {"default": action.default}
            stated = text.rpartition("default: ")[2].rstrip(")")
            assert stated and float(stated) == action.default, f"{action.option_strings}: {text}"


def printed(flag: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as caught:
        parse_main([flag])
    assert caught.value.code == 0
    return out.getvalue()


def test_help_has_the_flags_of_first_use_and_help_all_has_all():
    short, long = printed("--help"), printed("--help_all")
    names = vars(parse_main([])[0])
    assert all(re.search(rf"--{name}\b", long) for name in names)
    assert all(re.search(rf"--{name}\b", short) for name in FIRST)
    assert "--temporal_strides" not in short and "--help_all" in short
    assert "tree_hyperbolic" in long and "mvit_v2_s" in long  # choices by name


@pytest.mark.parametrize("script", ["main", "local_analysis", "local_analysis_parents", "local_attribution",
                                    "evaluate_explanations"])
def test_help_needs_no_pytorch(script):
    code = (f"import sys, {script}\ntry:\n    {script}.main(['--help'])\n"
            "except SystemExit:\n    sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False,
                          stdout=subprocess.DEVNULL).returncode == 0


def test_resolved_flags_do_not_change():
    parsed, _ = parse_main(["--n_epochs", "3"])
    args = resolve(parsed)
    assert parsed.model_depth is None and args.model_depth == 18  # those that were parsed stay, too
    for change in (lambda: setattr(args, "n_epochs", 4), lambda: setattr(args, "new", 4), lambda: delattr(args, "c")):
        with pytest.raises(AttributeError):
            change()
    other = args.replaced(n_epochs=4)
    assert (args.n_epochs, other.n_epochs) == (3, 4)
    assert {**vars(args), "n_epochs": 4} == vars(other)


def test_numbers_of_any_length_and_no_limit():
    assert resolved(f"--batch_size {'9' * 400}").batch_size == int("9" * 400)
    assert resolved("--cache_gb inf").cache_gb == float("inf")  # no limit
    with pytest.raises(ValueError, match="--learning_rate"):
        resolved("--learning_rate inf")
