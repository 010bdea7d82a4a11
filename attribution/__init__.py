"""Attribution methods: METHODS[name](score_fn, clip, **options) -> heat (T, H, W), score_fn: (B, 3, T, H, W) -> (B,).

A score can be a class, an ancestor or one prototype's activation: the methods see nothing else of the model. To add a
method, write the function and add a line to METHODS with the options that it takes: every script offers these, and a
misspelt one is an error.
"""

from collections.abc import Iterable, Mapping
from functools import partial

from attribution.feature_pyramid import DEPTH, THETA, class_feature_pyramid
from attribution.grad_cam import grad_cam, grad_cam_pp, hires_cam
from attribution.gradients import POLARITIES, STEPS, grad, grad_input, integrated_grad, smooth_grad
from attribution.lrp import lrp
from attribution.masks import PERTURBATIONS
from attribution.method import CONTEXT, Method, Option, Passes
from attribution.occlusion import WINDOW, boxes_along, occlusion, rise
from attribution.perturbation import AREAS, VARIANTS, extremal_perturbation
from attribution.random_heat import random_heat
from attribution.rollout import RESIDUAL, rollout
from attribution.superpixels import PARTS, SAMPLES, kernel_shap, lime

__all__ = ["CONTEXT", "METHODS", "Method", "Option", "Passes", "options_of", "parse_options"]

_polarity = {"polarity": Option(str, "positive", "part of the gradients that is heat", choices=tuple(POLARITIES))}
_seed = {"seed": Option(int, 0, "seed of noise", least=0)}
_batch = {"batch_size": Option(int, None, "passes at a time, by default 4, fewer of long clips", least=1)}
_passes = {"steps": Option(int, STEPS, "noisy copies, or points on the path", least=1),
           **_batch}
_noise = {"noise": Option(float, 0.15, "standard deviation of noise, as a share of the clip's range", least=0)}
_hidden = {"perturbation": Option(str, "blur", "what becomes of voxels outside the mask", choices=PERTURBATIONS)}
_window = {"window": Option(float, WINDOW, "length, height and width of the box as a share of the clip's", least=0,
                            most=1, inside=True)}
_random_masks = {"masks": Option(int, 500, "random masks", least=1),
                 "share": Option(float, 0.5, "share of the clip that a mask shows", least=0, most=1, inside=True)}
_parts = {"parts": Option(int, PARTS, "superpixels in space and time, about", least=2),
          "samples": Option(int, SAMPLES, "clips with some superpixels left out", least=2)}
_perturbation = {
    "areas": Option(float, AREAS, "areas of a mask as shares, whose masks are averaged", least=0, most=1, inside=True,
                    several=True),
    "variants": Option(str, ("preserve",), "mask that keeps the score, that kills it, or both", choices=VARIANTS,
                       several=True),
    **_hidden,
    "iterations": Option(int, 2000, "iterations at most; Ctrl-C ends them with the best mask so far", least=1),
    "patience": Option(int, 200, "iterations without progress that finish a mask", least=1),
    "step": Option(int, None, "pixels between two points of the mask's grid, by default in proportion to the frame",
                   least=1),
    "sigma": Option(float, None, "width of the mask's kernel in pixels, by default in proportion to the frame", least=0,
                    inside=True),
    "published_energy": Option(bool, False, "use the published energy and rate, in which a score can pay for any area")}
_pyramid = {
    "theta": Option(float, THETA, "least share of a channel in the pyramid", least=0, most=1),
    "depth": Option(int, DEPTH, "convolutions that the pyramid goes down", least=1),
    "top_n": Option(int, None, "channels followed from each channel at most, by default all that reach theta", least=1),
    "level": Option(int, 0, "layer whose channels are the heat, 0 for the features that the score reads", least=0)}
_rollout = {"residual": Option(float, RESIDUAL, "share of a token that passes beside attention", least=0, most=1)}


def _steps(options: Mapping[str, object]) -> Passes:
    return Passes(gradients=options["steps"])


def _masks(options: Mapping[str, object]) -> Passes:
    shown = sum(2 if variant == "dual" else 1 for variant in options["variants"])  # a dual mask keeps and kills
    return Passes(gradients=options["iterations"] * len(options["areas"]) * shown)


METHODS = {method.name: method for method in (
    Method("grad", grad, _polarity, voxelwise=True),
    Method("grad*input", grad_input, _polarity, voxelwise=True),
    Method("smooth_grad", smooth_grad, _polarity | _passes | _noise | _seed, voxelwise=True, cost=_steps),
    Method("integrated_grad", integrated_grad, _polarity | _passes, voxelwise=True, cost=_steps),
    *(Method(name, function, needs=("layer", "upsample"), of_features=True, of_logits=True,
             cost=lambda _: Passes(forward=1))
      for name, function in (("grad_cam", grad_cam), ("grad_cam++", grad_cam_pp), ("hires_cam", hires_cam))),
    Method("lrp", lrp, _polarity, ("layer",), voxelwise=True, of_logits=True, propagates=True,
           cost=lambda _: Passes(forward=1, gradients=1)),
    Method("occlusion", occlusion, _polarity | _hidden | _window | _batch,
           cost=lambda options: Passes(forward=1 + boxes_along(options["window"]) ** 3)),
    Method("rise", rise, _random_masks | _hidden | _seed | _batch, ("score",),
           cost=lambda options: Passes(forward=options["masks"])),
    *(Method(name, function, _polarity | _hidden | _parts | _seed | _batch,
             cost=lambda options: Passes(forward=options["samples"]))
      for name, function in (("lime", lime), ("kernel_shap", kernel_shap))),
    *(Method(how, partial(extremal_perturbation, how=how), _perturbation, ("score", "highest"), optimises=True,
             cost=_masks)
      for how in ("2d_ep", "3d_ep", "step")),
    Method("class_feature_pyramid", class_feature_pyramid, _pyramid, ("layer", "class_weights", "head_weights"),
           cost=lambda _: Passes(forward=1), edition=2),  # 1: the first step was min-max over the class's weights alone
    Method("rollout", rollout, _rollout, ("layer", "upsample"), of_attention=True, cost=lambda _: Passes(forward=1)),
    Method("random", random_heat, _seed, voxelwise=True, cost=lambda _: Passes()),
)}


def options_of(name: str, **options: object) -> dict[str, object]:
    """Those of some options that a method takes, for calls of many methods alike.

    Raises:
        ValueError: for an option that no method takes.
    """
    for option in options:
        if not any(option in method.options for method in METHODS.values()):
            raise ValueError(f"no method has an option {option}")
    return {option: value for option, value in options.items() if option in METHODS[name].options}


def parse_options(words: Iterable[str], methods: Iterable[str]) -> dict[str, dict[str, object]]:
    """By method, the options that a script's flag --options sets.

    Args:
        words: METHOD.NAME=VALUE each. methods: that this call runs.
    Raises:
        ValueError: for a word of another form, a method that is not run, an option that it does not declare, or a value
            that the option does not allow.
    """
    methods = list(methods)
    options: dict[str, dict[str, object]] = {}
    for word in words:
        place, equals, text = word.partition("=")
        method, dot, name = place.rpartition(".")
        if not equals or not dot:
            raise ValueError(f"--options {word}: not of the form METHOD.NAME=VALUE, such as smooth_grad.noise=0.2")
        if method not in METHODS:
            raise ValueError(f"--options {word}: no method {method}; choose one of {', '.join(METHODS)}")
        if method not in methods:
            raise ValueError(f"--options {word}: {method} is not among the methods of this call")
        try:
            options.setdefault(method, {})[name] = METHODS[method].parse(name, text)
        except ValueError as error:
            raise ValueError(f"--options {word}: {error}") from error
    return options
