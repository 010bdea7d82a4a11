"""Attribution methods: method(score_fn, clip, **options) -> heat (T, H, W), for any score_fn (B, 3, T, H, W) -> (B,).

A score can be a class, an ancestor or one prototype's activation: the methods see nothing else of the model. To add
one, write the function and add a line to METHODS.
"""

from attribution.grad_cam import grad_cam
from attribution.random_heat import random_heat

METHODS = {"grad_cam": grad_cam, "random": random_heat}
