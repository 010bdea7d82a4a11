"""Small synthetic actions whose truth is known, written in UCF-101's own layout: the embedded default data set.

A video is a tiny filmed scene: a muted background under a shaky camera, an object that performs the event for a while,
decoys from the same vocabulary of objects that stand still, and grey movers from outside it. The class is which object
moves how: `BallFalling` and `StarFalling` share their parent, `Falling` and `Rising` their grandparent. Neither the
object (each occurs under four parents) nor the background (a group's background occurs in every class) gives the class
away, and no motion tells left from right, so that mirrored clips keep their label.

With two ways, every object comes in two kinds of different outline and hue, and the kind that performs a class's event
is the way that the video shows it. Decoys come in both kinds, so that the kind does not give the class away either.

Two more sets tell what a likeness hangs on, since nothing else differs from class to class: the motion (`motion`; a
group's videos show one object on different paths) or the object (`object`; a group's videos show one motion).

Every video is a pure function of (seed, class, group, clip) and of its way. Lengths scale with the frame size, times
with the number of frames.
"""

from datasets.synthetic.classes import CLASSES, HUES, SECOND_KINDS, SETS, SHAPE_HUES
from datasets.synthetic.drawing import render
from datasets.synthetic.files import WAY_SHARE, make_demo_dataset, training_ways, video_name
from datasets.synthetic.motions import MOTIONS
from datasets.synthetic.places import make_group
from datasets.synthetic.scenes import make_scene
from datasets.synthetic.shapes import SHAPES

__all__ = ["CLASSES", "HUES", "MOTIONS", "SECOND_KINDS", "SETS", "SHAPES", "SHAPE_HUES", "WAY_SHARE",
           "make_demo_dataset", "make_group", "make_scene", "render", "training_ways", "video_name"]
