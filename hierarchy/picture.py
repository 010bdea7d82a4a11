"""A picture of the class tree on the Poincare disk."""

import colorsys
import math

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from hierarchy.hyperbolic import to_ball
from hierarchy.lettering import lettered
from hierarchy.tree import Hierarchy

_RIM = 0.9  # radius of the leaves in the disk of radius 1
_FINE = 2  # drawn larger by this factor and scaled down, which smooths edges
_TEXT = 0.0125  # height of the classes' names, relative to the picture's
_INK, _PAPER = (45, 45, 45), (252, 252, 252)


def lay_out(hierarchy: Hierarchy) -> Tensor:
    """A plane embedding for drawing: (K, 2) float64 tangent vectors at the origin, for c = 1.

    Classes have equal angles, an inner node is in the middle of its children, and all levels are at the same hyperbolic
    distance from the level above, with the classes at radius .9 of the disk. Edges do not cross.
    """
    angle = torch.zeros(len(hierarchy), dtype=torch.float64)
    leaves = in_order(hierarchy)
    angle[leaves] = torch.arange(len(leaves), dtype=torch.float64) * (2 * math.pi / len(leaves))
    for level in hierarchy.levels[1:]:
        for node in level:
            below = angle[list(hierarchy.children(node))]
            angle[node] = (below.min() + below.max()) / 2
    depth = hierarchy.n_levels - hierarchy.level_of
    length = math.atanh(_RIM) * depth / hierarchy.n_levels  # of the tangent vectors
    return length[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)


def in_order(hierarchy: Hierarchy) -> list[int]:
    """The leaves, ordered by their ancestors."""
    nodes = list(hierarchy.levels[-1])
    for _ in hierarchy.levels[1:]:
        nodes = [child for node in nodes for child in hierarchy.children(node)]
    return nodes


def geodesic(u: Tensor, w: Tensor, n: int = 24) -> Tensor:
    """(n, 2) points of the disk on the geodesic between two points, from tangent vectors (2,) at c = 1."""
    ends = torch.stack([u, w])
    radius = 2 * torch.linalg.vector_norm(ends, dim=-1, keepdim=True)
    space = torch.nn.functional.normalize(ends, dim=-1) * torch.sinh(radius)
    lorentz = torch.cat([torch.cosh(radius), space], dim=-1)  # (2, 3)
    along = torch.linspace(0, 1, n, dtype=ends.dtype)[:, None]
    apart = torch.acosh((lorentz[0] * lorentz[1] * torch.tensor([1, -1, -1])).sum().clamp_min(1 + 1e-12))
    way = torch.sinh((1 - along) * apart) * lorentz[0] + torch.sinh(along * apart) * lorentz[1]
    way = way / torch.sinh(apart)
    return way[:, 1:] / (1 + way[:, :1])


def draw_tree(hierarchy: Hierarchy, *, size: int = 1400) -> Image.Image:
    """The tree of `lay_out` with geodesic edges, each topmost node and all below it in a colour of its own.

    Args:
        size: height and width in pixels. A name without room beside the last one of its level is left out.
    Returns:
        a palette image of 128 colours, which makes a small PNG.
    """
    tangent = lay_out(hierarchy)
    at = to_ball(tangent, 1.0)
    paths = [hierarchy.path_ids(node) for node in range(len(hierarchy))]
    colours = dict(zip(hierarchy.levels[-1], _colours(len(hierarchy.levels[-1])), strict=True))
    sheet = _Sheet(size, [hierarchy.names[leaf] for leaf in hierarchy.levels[0]])
    sheet.rim()
    rise = hierarchy.level_of / max(1, hierarchy.n_levels - 1)  # 0 for classes, 1 for the topmost nodes
    radius = [float(torch.linalg.vector_norm(at[nodes[0]])) for nodes in hierarchy.levels] + [0.0]
    room = [2 * math.pi * sheet.scale * r / len(nodes) for r, nodes in zip(radius, hierarchy.levels, strict=False)]
    for node, path in enumerate(paths):
        parent = tangent[path[1]] if len(path) > 1 else torch.zeros_like(tangent[node])
        thickness = min(1.2 + 1.6 * float(rise[node]), room[int(hierarchy.level_of[node])] / 3)
        sheet.edge(geodesic(parent, tangent[node]), colours[path[-1]], thickness)
    for node, path in enumerate(paths):
        sheet.node(at[node], min(3 + 5 * float(rise[node]), room[int(hierarchy.level_of[node])] / 4), colours[path[-1]])
    sheet.node(torch.zeros(2), 5, _INK)
    for level, nodes in enumerate(hierarchy.levels):
        height = size * (_TEXT + 0.003 * float(rise[nodes[0]]))
        gap = None if level == 0 else (0.95 if radius[level + 1] else 0.78) * (radius[level] - radius[level + 1])
        angles = torch.atan2(at[nodes, 1], at[nodes, 0])
        last = -math.inf
        for angle, index in zip(*(part.tolist() for part in angles.sort()), strict=True):
            if (angle - last) * sheet.scale * radius[level] > 0.9 * height:  # else it would run into the last one
                last, node = angle, nodes[index]
                sheet.along(at[node], hierarchy.names[node], height, colours[paths[node][-1]], gap)
    return sheet.finished()


def _colours(n: int) -> list[tuple[int, int, int]]:
    """n evenly spaced hues, dark enough to be read on white."""
    wheel = [colorsys.hsv_to_rgb((0.58 + k / max(n, 1)) % 1, 0.8, 0.72 - 0.14 * (k % 2)) for k in range(n)]
    return [tuple(round(255 * part) for part in colour) for colour in wheel]


class _Sheet:
    """A white square with the unit disk in its middle, drawn at a finer resolution."""

    def __init__(self, size: int, around: list[str]) -> None:
        """A sheet of size x size pixels, with space for the names around the disk."""
        longest = max(font.getlength(shown) for shown, font in (lettered(name, _TEXT * size) for name in around))
        self.size, self.scale = size, max(0.3 * size, (size / 2 - longest - 18) / _RIM)  # pixels of radius 1
        self.scale = min(self.scale, 0.49 * size)
        self.image = Image.new("RGB", (_FINE * size,) * 2, "white")
        self.draw = ImageDraw.Draw(self.image)

    def pixel(self, point: Tensor) -> tuple[float, float]:
        """The position of a point (2,) of the disk in the fine picture."""
        x, y = (_FINE * self.scale * point).tolist()
        return _FINE * self.size / 2 + x, _FINE * self.size / 2 - y

    def rim(self) -> None:
        """The border of the disk."""
        radius = _FINE * self.scale
        middle = _FINE * self.size / 2
        box = (middle - radius, middle - radius, middle + radius, middle + radius)
        self.draw.ellipse(box, fill=_PAPER, outline=(200, 200, 200), width=_FINE)

    def edge(self, points: Tensor, colour: tuple[int, int, int], thickness: float) -> None:
        """A line through points (n, 2)."""
        self.draw.line([self.pixel(point) for point in points], colour, max(1, round(_FINE * thickness)), joint="curve")

    def node(self, point: Tensor, radius: float, colour: tuple[int, int, int]) -> None:
        """A dot with a white rim."""
        x, y = self.pixel(point)
        radius *= _FINE
        self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour, "white", _FINE)

    def along(self, point: Tensor, name: str, height: float, colour: tuple[int, int, int], room: float | None) -> None:
        """A name along the ray through a node: outside the node, or inside it within `room` (in radii of the disk)."""
        name, font = lettered(name, _FINE * height)
        if room is not None:
            font = font.font_variant(size=min(font.size, font.size * _FINE * self.scale * room / font.getlength(name)))
        halo_width = 4 * _FINE
        left, top, right, bottom = font.getbbox(name, stroke_width=halo_width)
        box = (math.ceil(right - left), math.ceil(bottom - top))
        letters, halo = Image.new("L", box), Image.new("L", box)
        ImageDraw.Draw(letters).text((-left, -top), name, 255, font)
        ImageDraw.Draw(halo).text((-left, -top), name, 255, font, stroke_width=halo_width)
        angle = math.atan2(float(point[1]), float(point[0]))
        step = _FINE * 6 + box[0] / 2 if room is None else -_FINE * 7 - box[0] / 2  # to the middle of the name
        x, y = self.pixel(point)
        x, y = x + step * math.cos(angle), y - step * math.sin(angle)
        turn = math.degrees(angle) + (180 if math.cos(angle) < 0 else 0)
        for mask, ink in ((letters, colour),) if room is None else ((halo, _PAPER), (letters, colour)):
            turned = mask.rotate(turn, Image.Resampling.BICUBIC, expand=True)
            self.image.paste(ink, (round(x - turned.width / 2), round(y - turned.height / 2)), turned)

    def finished(self) -> Image.Image:
        """The picture at its final size."""
        return self.image.resize((self.size, self.size), Image.Resampling.LANCZOS).quantize(128)
