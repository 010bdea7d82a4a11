"""The classes of the synthetic sets: which objects perform which motions, and the hues of the objects."""

from typing import NamedTuple


class Act(NamedTuple):
    """A class: its name, what performs which motion, None where that differs from group to group, and the nodes above
    it from its parent up.
    """

    name: str
    thing: str | None
    motion: str | None
    above: tuple[str, ...]


# grandparent -> parent (the motion) -> the objects that perform it. Each object occurs under four parents.
TREE = {
    "One-way Travel": {
        "Falling": ("Ball", "Book", "Star"),
        "Rising": ("Book", "Hoop", "Kite"),
        "Sliding": ("Book", "Hoop", "Star"),
    },
    "Repeated Travel": {
        "Bouncing": ("Ball", "Cross", "Kite"),
        "Swinging": ("Ball", "Hoop", "Kite"),
        "Circling": ("Ball", "Book", "Cross"),
    },
    "Change on the Spot": {
        "Spinning": ("Cross", "Kite", "Star"),
        "Pulsing": ("Cross", "Hoop", "Star"),
    },
}
# (class, object, motion, grandparent) in the class order, which is alphabetical as in UCF-101.
CLASSES = tuple(
    sorted(
        (thing + motion, thing, motion, family)
        for family, motions in TREE.items()
        for motion, things in motions.items()
        for thing in things
    )
)
# parent -> objects of one kind of outline
OUTLINES = {"Round": ("Ball", "Hoop"), "Square": ("Book", "Cross"), "Pointed": ("Kite", "Star")}
# By what differs from class to class, the classes in their order. Where only the motion does, all videos of a group
# show the same object; where only the object does, all show the same motion. The others are the pairs of an object and
# a motion that are no class, for models that have never seen them.
SETS: dict[str, tuple[Act, ...]] = {
    "both": tuple(Act(name, thing, motion, (motion, family)) for name, thing, motion, family in CLASSES),
    "motion": tuple(sorted(Act(motion, None, motion, (family,)) for family, motions in TREE.items()
                           for motion in motions)),
    "object": tuple(sorted(Act(thing, thing, None, (outline,)) for outline, things in OUTLINES.items()
                           for thing in things)),
    "others": tuple(sorted(Act(thing + motion, thing, motion, (motion, family)) for family, motions in TREE.items()
                           for motion, things in motions.items() for outline in OUTLINES.values()
                           for thing in outline if thing not in things)),
}
HUES = {"Ball": 0, "Star": 50, "Cross": 120, "Hoop": 182, "Book": 228, "Kite": 305}  # degrees
# The kind of each object that shows way 1 of two, with its hue: at least 23 degrees from all others, which is more than
# the actors of two groups can differ by, and at least 140 from the object's first kind.
SECOND_KINDS = {
    "Ball": ("Rugby Ball", 151),
    "Star": ("Four-pointed Star", 205),
    "Cross": ("Latin Cross", 267),
    "Hoop": ("Square Hoop", 332),
    "Book": ("Open Book", 25),
    "Kite": ("Delta Kite", 85),
}
SHAPE_HUES = HUES | dict(SECOND_KINDS.values())
MIN_FRAMES = 16  # below, an event is too short for its motion
MIN_SIZE = 32  # pixels; below, objects are blots
DESIGN_SIZE = 72  # pixels of a frame; other modules state their lengths for it
DESIGN_EVENT = 18  # frames of an event; other modules state their speeds for it
