"""Sentences about the numbers of a card, which hold for every score."""

import math

from evaluation.likeness import LOSSES
from hierarchy.tree import level_name

ALIKE = 0.5  # least similarity of a good match
COUNTS = 0.1  # least contribution, in nats, of a prototype that matters: a tenth of the probability
NOTHING = 0.0005  # nats below which silencing changes no digit that is shown
UNLIKE = 0.01  # share of the node's training videos that are farther, below which a match is none
LEAST = 10  # videos of a node; of n like the clip it is the farthest once in n + 1 times, which is no reason to warn
HANGS = 0.1  # share of a match that is lost with what it hangs on, at least
FEW = 20  # number of videos below which a share is imprecise
NARROW = "\N{NARROW NO-BREAK SPACE}"


def plural(level: int) -> str:
    """The plural of a level: classes, parents, grandparents, nodes of level 3."""
    name = level_name(level)
    return f"nodes of {name}" if name.startswith("level") else name + ("es" if name.endswith("s") else "s")


def share(value: float) -> str:
    """A share in percent, never rounded to 100 % or 0 %: 43 %, 99.8 %, > 99.9 %, < 0.1 %."""
    percent = 100 * value
    if percent >= 99.95:
        return f">{NARROW}99.9{NARROW}%"
    if percent < 0.05:
        return f"<{NARROW}0.1{NARROW}%"
    return (f"{percent:.0f}" if 1 <= percent < 99 else f"{percent:.1f}") + f"{NARROW}%"


def rate(value: float | None) -> str:
    """A share in percent with at most one decimal; a dash where it is undefined."""
    if value is None:
        return "\N{EN DASH}"
    return f"{100 * value:.1f}".removesuffix(".0") + f"{NARROW}%"


def closeness(entry: dict, level: int) -> str | None:
    """How a match compares with training videos of other nodes; None where unknown."""
    value, count = entry["closer_than"], entry["closer_than_videos"]
    if value is None:
        return None
    videos = f"{count} training videos of other {plural(level)}" if count != 1 else \
        f"one training video of other {plural(level)}"
    if value >= 1:
        text = f"Closer than all {videos}" if count != 1 else f"Closer than the {videos}"
    elif value <= 0:
        text = f"Less close than all {videos}" if count != 1 else f"Less close than the {videos}"
    else:
        text = f"Closer than {share(value)} of the {videos}"
    return f"{text}.{_few(count)}"


def typicality(entry: dict, level: int) -> str | None:
    """How a match compares with training videos of its own node; None where unknown."""
    value, count = entry["typical"], entry["typical_videos"]
    if value is None:
        return None
    own = f"its own {level_name(level)}" if not level_name(level).startswith("level") else "its own node"
    if value < UNLIKE and count < LEAST:
        text = f"Farther than the {count} other training videos of {own}" if count > 1 else \
            f"Farther than the other training video of {own}"
    elif value < UNLIKE:
        text = f"Farther than practically every training video of {own} ({count})"
    elif value < 0.25:
        text = f"Farther than most training videos of {own}: only {share(value)} of {count} are still farther"
    elif value <= 0.75:
        text = f"As close as the typical training video of {own}: {share(value)} of {count} are farther"
    elif value < 1:
        text = f"Closer than most training videos of {own}: {share(value)} of {count} are farther"
    else:
        text = f"Closer than all {count} other training videos of {own}" if count > 1 else \
            f"Closer than the other training video of {own}"
    return f"{text}.{_few(count)}"


def _few(count: int) -> str:
    return f" Only {count} {'video stands' if count == 1 else 'videos stand'} behind this." if count < FEW else ""


def _is_far(entry: dict) -> bool:
    """Whether a match is farther off than the node's training videos are, of which there are enough to tell."""
    return entry["typical"] is not None and entry["typical"] < UNLIKE and entry["typical_videos"] >= LEAST


def unlike(level: dict) -> tuple[str, str] | None:
    """A warning that the best match of a level is not a match, with its reason; None where it is a match."""
    first = level["prototypes"][0] if level["prototypes"] else None
    if first is None or not _is_far(first):
        return None
    count = first["typical_videos"]
    return (f"Nothing here looks like what the model knows of {level['node']}.",
            f"The best match is farther off than in practically every training video of {level['node']} ({count})."
            f"{_few(count)}")


def unseen(explanation: dict) -> tuple[str, str] | None:
    """That a whole video may be something new to the model, and at which levels it is unlike what it is predicted to
    be; None where it is like it, or where that is not known."""
    level = explanation.get("unseen_from")
    if level is None:
        return None
    path, values = explanation["prediction"], explanation["unseen"][:level + 1]
    least = min(value for value in values if value is not None)
    others = "all" if least >= 1 else f"{share(least)} of"
    *first, last = path[:level + 1]
    names = f"{', '.join(first)} and {last}" if first else last
    rest = f" It is like {path[level + 1]} as usual." if level + 1 < len(path) else ""
    return ("This may be something new to the model.",
            f"It is named so because nothing is nearer, but it is less like {names} than {others} the training videos "
            f"are like what they show.{rest}")


def judgement(entry: dict, siblings: int) -> tuple[str, str]:
    """The value of a card as a reason: "good", "part" or "poor", and a sentence about it.

    Args:
        siblings: number of children of the node's parent, the node included.
    """
    node, resembles = entry["node"], entry["similarity"] >= ALIKE
    alike = resembles and not _is_far(entry)
    if siblings == 1 and abs(entry["contribution"]) < NOTHING:
        return ("part" if alike else "poor",
                f"{'A good match, but nothing' if alike else 'Not much alike, and nothing'} hangs on it: {node} is the "
                "only node below its parent.")
    if entry["stands_by"]:
        return ("part" if alike else "poor",
                f"{'A good match that stands' if alike else 'Not much alike, and it stands'} by: another prototype of "
                f"{node} says more, so this one is not counted.")
    if entry["contribution"] <= -COUNTS:
        return "part" if alike else "poor", f"It speaks against {node}."
    if entry["contribution"] < COUNTS:
        return (("part", "A good match that decides little by itself: without it the others say enough.") if alike else
                ("poor", f"Neither alike nor decisive: this card does not tell why the model says {node}."))
    if alike:
        return "good", "A good match, and it counts."
    distance = f"videos of {node} come much nearer" if resembles else "it is not much like its patch"
    return "poor", f"It counts, but {distance}: do not take the pictures for the reason."


def tested(entry: dict, siblings: int) -> tuple[str, str]:
    """What the box check of a card says: in bold, for a box that fails, and the rest.

    Args:
        siblings: as of `judgement`.
    """
    only, hidden = ("all" if entry["box_test"][name] >= 1 else rate(entry["box_test"][name])
                    for name in ("box_only", "box_hidden"))
    if not entry["box_test"]["holds"]:
        return ("Do not trust this box.",
                f"Shown alone, it keeps {only} of the match, and with the box blurred {hidden} is left: what the "
                "prototype matches is not in the box alone.")
    if judgement(entry, siblings)[0] == "poor":
        return "", ("The box only shows where this match comes from, which is no reason to believe it: shown alone, "
                    f"the box keeps {only} of it; with the box blurred, {hidden} is left.")
    if entry["box_test"]["box_hidden"] >= 0.5:
        return "", (f"The box is one place of several: shown alone, it keeps {only} of the match, but with the box "
                    f"blurred {hidden} is left.")
    return "", f"Box checked: shown alone, it keeps {only} of the match; with the box blurred, {hidden} is left."


def sentences(entry: dict, level: dict) -> list[str]:
    """All that a card says in words of a prototype's match.

    Args:
        entry, level: of explanation.json.
    """
    said = [judgement(entry, level["siblings"])[1], closeness(entry, level["level"]), typicality(entry, level["level"]),
            " ".join(filter(None, tested(entry, level["siblings"]))), hangs_on_words(entry)]
    return [sentence for sentence in said if sentence]


def hangs_on_words(entry: dict) -> str:
    """What the match of a card hangs on inside its box, most of all first; empty for explanations that do not tell."""
    shares = entry.get("hangs_on") or {}
    order = sorted(shares, key=shares.get, reverse=True)
    if not order:
        return ""
    *first, last = (LOSSES[trait] for trait in order)
    changes = f"{', '.join(first)} or {last}" if first else last
    if shares[order[0]] < HANGS:
        most = f"{100 * shares[order[0]]:.0f}{NARROW}%"
        return f"The match hangs on no one thing in the box: at most {most} of it is lost when the box {changes}."
    parts = ", ".join(f"{trait} {100 * shares[trait]:.0f}{NARROW}%" for trait in order)
    return f"What the match hangs on: {parts} (what is lost when the box alone {changes}; the shares need not add up)."


def times(nats: float) -> str:
    """How many times as probable a difference of log-probabilities makes the likelier one."""
    ratio = math.exp(min(abs(nats), 10))
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}" if ratio < 1e4 else f"more than 10{NARROW}000"


def contrast_words(level: dict, rival: dict) -> str:
    """What a contrast of explanation.json comes to, in words."""
    ahead, behind = (level["node"], rival["node"]) if rival["difference"] >= 0 else (rival["node"], level["node"])
    first = max(rival["prototypes"], key=lambda entry: abs(entry["nats"]), default=None)
    text = f"In this window {ahead} is {times(rival['difference'])} times as probable as {behind}."
    if first is None:
        return f"{text} No prototype decides between them."
    side = level["node"] if first["nats"] > 0 else rival["node"]
    return f"{text} What counts most is prototype {first['prototype']} of {first['node']}, which speaks for {side}."
