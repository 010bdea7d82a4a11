"""Attribution methods: method(score_fn, clip, **options) -> heat (T, H, W), for any score_fn (B, 3, T, H, W) -> (B,).

A score can be a class, an ancestor or one prototype's activation: the methods see nothing else of the model. grad_cam
and class_feature_pyramid also take the module (`layer`) whose features they read. To add a method, write the function
and add a line to METHODS; options that belong to other methods are for it to ignore.
"""

from functools import partial

from attribution.feature_pyramid import class_feature_pyramid
from attribution.grad_cam import grad_cam
from attribution.gradients import grad, grad_input, integrated_grad, smooth_grad
from attribution.perturbation import extremal_perturbation
from attribution.random_heat import random_heat

VOXELWISE = ("grad", "grad*input", "smooth_grad", "integrated_grad", "random")  # scattered over single voxels
METHODS = {
    "grad": grad,
    "grad*input": grad_input,
    "smooth_grad": smooth_grad,
    "integrated_grad": integrated_grad,
    "grad_cam": grad_cam,
    "2d_ep": partial(extremal_perturbation, how="2d_ep"),
    "3d_ep": partial(extremal_perturbation, how="3d_ep"),
    "step": partial(extremal_perturbation, how="step"),
    "class_feature_pyramid": class_feature_pyramid,
    "random": random_heat,
}
