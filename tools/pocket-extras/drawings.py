"""The pictures that pocket's own LoRA and inversion learn from: simple things, drawn here, in two looks.

A thing is a list of strokes on a square of side 2 around the origin: closed or open lines, and circles. The looks are
`blueprint`, white lines on blue squared paper, and `sepia`, filled shapes in the browns of an old photograph.
"""

import math
import random

from PIL import Image, ImageDraw

SIDE = 1024
# Drawn larger and reduced, so that lines have soft edges.
OVERSAMPLING = 2


def ring(corners: int, inner: float, turn: float = -90) -> list[tuple[float, float]]:
    """A polygon whose corners lie on two circles in turn, as those of a star do."""
    points = []
    for k in range(2 * corners):
        radius = 1 if k % 2 == 0 else inner
        angle = math.radians(turn + 180 * k / corners)
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return points


def arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float) -> list[tuple[float, float]]:
    """Points of a part of an ellipse, in degrees."""
    steps = 40
    angles = [math.radians(start + (end - start) * k / steps) for k in range(steps + 1)]
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


def heart() -> list[tuple[float, float]]:
    points = []
    for k in range(80):
        t = 2 * math.pi * k / 80
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 17, -y / 17))
    return points


def circle(cx: float, cy: float, radius: float) -> list[tuple[float, float]]:
    return arc(cx, cy, radius, radius, 0, 360)


# Words that pocket knows → closed lines, the outer one first.
THINGS: dict[str, list[list[tuple[float, float]]]] = {
    "apple": [circle(0, 0.15, 0.8), arc(0.2, -0.75, 0.35, 0.15, 0, 360), [(0, -0.6), (0.04, -1), (-0.04, -1)]],
    "star": [ring(5, 0.4)],
    "heart": [heart()],
    "sun": [ring(12, 0.7), circle(0, 0, 0.5)],
    "crescent moon": [arc(0, 0, 0.95, 0.95, 60, 300) + arc(0.25, 0, 0.75, 0.82, 290, 70)],
    "house": [
        [(-0.8, 1), (-0.8, -0.1), (-1, -0.1), (0, -1), (1, -0.1), (0.8, -0.1), (0.8, 1)],
        [(-0.2, 1), (-0.2, 0.35), (0.2, 0.35), (0.2, 1)],
        [(-0.6, 0.1), (-0.3, 0.1), (-0.3, 0.4), (-0.6, 0.4)],
        [(0.3, 0.1), (0.6, 0.1), (0.6, 0.4), (0.3, 0.4)],
    ],
    "balloon": [arc(0, -0.2, 0.7, 0.8, 0, 360), [(-0.12, 0.75), (0, 0.58), (0.12, 0.75)], [(0, 0.75), (0.02, 1), (-0.02, 1)]],
    "sailboat": [[(-1, 0.5), (1, 0.5), (0.6, 1), (-0.6, 1)], [(-0.05, 0.4), (-0.05, -1), (-0.85, 0.4)], [(0.1, 0.4), (0.1, -0.8), (0.8, 0.4)]],
    "christmas tree": [[(0, -1), (0.45, -0.4), (0.25, -0.4), (0.65, 0.15), (0.4, 0.15), (0.85, 0.75), (-0.85, 0.75), (-0.4, 0.15), (-0.65, 0.15), (-0.25, -0.4), (-0.45, -0.4)], [(-0.15, 0.75), (0.15, 0.75), (0.15, 1), (-0.15, 1)]],
    "gift": [[(-0.9, -0.3), (0.9, -0.3), (0.9, 1), (-0.9, 1)], [(-1, -0.6), (1, -0.6), (1, -0.3), (-1, -0.3)], [(-0.15, -0.6), (0.15, -0.6), (0.15, 1), (-0.15, 1)], circle(-0.35, -0.8, 0.22), circle(0.35, -0.8, 0.22)],
    "snowman": [circle(0, 0.45, 0.55), circle(0, -0.45, 0.4), circle(-0.13, -0.55, 0.05), circle(0.13, -0.55, 0.05), circle(0, 0.3, 0.06), circle(0, 0.6, 0.06)],
    "smiley": [circle(0, 0, 0.95), circle(-0.35, -0.25, 0.12), circle(0.35, -0.25, 0.12), arc(0, 0.1, 0.55, 0.5, 10, 170)],
    "cat": [[(-0.95, -1), (-0.4, -0.75), (0.4, -0.75), (0.95, -1), (0.95, 0.2), (0.5, 0.85), (-0.5, 0.85), (-0.95, 0.2)], circle(-0.4, -0.1, 0.13), circle(0.4, -0.1, 0.13), [(-0.12, 0.25), (0.12, 0.25), (0, 0.4)]],
    "rocket": [[(0, -1), (0.35, -0.45), (0.35, 0.5), (-0.35, 0.5), (-0.35, -0.45)], [(0.35, 0.1), (0.75, 0.7), (0.35, 0.5)], [(-0.35, 0.1), (-0.75, 0.7), (-0.35, 0.5)], circle(0, -0.25, 0.17), [(-0.2, 0.5), (0.2, 0.5), (0, 1)]],
    "car": [[(-1, 0.5), (-1, 0.05), (-0.6, 0), (-0.35, -0.45), (0.4, -0.45), (0.65, 0), (1, 0.1), (1, 0.5)], circle(-0.55, 0.5, 0.22), circle(0.55, 0.5, 0.22), [(-0.45, 0), (-0.28, -0.33), (0.33, -0.33), (0.48, 0)]],
    "umbrella": [arc(0, 0, 0.95, 0.9, 180, 360) + [(0.5, -0.12), (0, 0), (-0.5, -0.12)], [(-0.05, 0), (0.05, 0), (0.05, 0.9), (-0.05, 0.9)]],
    "mushroom": [arc(0, 0, 0.95, 0.85, 180, 360), [(-0.3, 0), (0.3, 0), (0.4, 0.95), (-0.4, 0.95)], circle(-0.4, -0.35, 0.13), circle(0.1, -0.55, 0.15), circle(0.5, -0.25, 0.11)],
    "fish": [arc(-0.15, 0, 0.75, 0.5, 0, 360), [(0.55, 0), (1, -0.45), (1, 0.45)], circle(-0.5, -0.12, 0.08)],
}

# A photograph's browns: the paper, and inks from light to dark.
SEPIA_PAPER = [(236, 219, 186), (224, 203, 164), (209, 184, 142), (243, 229, 203)]
SEPIA_INKS = [(112, 74, 38), (88, 56, 28), (140, 98, 56), (164, 122, 76), (64, 40, 20)]


def placed(points: list[tuple[float, float]], cx: float, cy: float, scale: float, turn: float) -> list[tuple[float, float]]:
    cos, sin = math.cos(turn), math.sin(turn)
    return [(cx + scale * (x * cos - y * sin), cy + scale * (x * sin + y * cos)) for x, y in points]


def place(rng: random.Random) -> tuple[float, float, float, float]:
    """Where a thing stands: its centre, half its size, and a slight turn, in pixels and radians."""
    half = rng.uniform(0.26, 0.36) * SIDE
    reach = SIDE / 2 - half - 60
    return (SIDE / 2 + rng.uniform(-1, 1) * reach / 2, SIDE / 2 + rng.uniform(-1, 1) * reach / 2, half, rng.uniform(-0.15, 0.15))


def blueprint(name: str, rng: random.Random) -> Image.Image:
    """White lines on blue squared paper; the squares are those of the latents, four to a side."""
    k = OVERSAMPLING
    picture = Image.new("RGB", (SIDE * k, SIDE * k), (24, 72, 160))
    draw = ImageDraw.Draw(picture)
    for step in range(128, SIDE, 128):
        draw.line([(step * k, 0), (step * k, SIDE * k)], fill=(96, 138, 210), width=8 * k)
        draw.line([(0, step * k), (SIDE * k, step * k)], fill=(96, 138, 210), width=8 * k)
    cx, cy, half, turn = place(rng)
    for points in THINGS[name]:
        line = [(x * k, y * k) for x, y in placed(points, cx, cy, half, turn)]
        draw.line([*line, line[0], line[1]], fill=(250, 252, 255), width=26 * k, joint="curve")
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def sepia(name: str, rng: random.Random) -> Image.Image:
    """Brown shapes on old paper, darker towards the corners."""
    k = OVERSAMPLING
    paper, inks = rng.choice(SEPIA_PAPER), rng.sample(SEPIA_INKS, 3)
    picture = Image.new("RGB", (SIDE * k, SIDE * k), paper)
    draw = ImageDraw.Draw(picture)
    cx, cy, half, turn = place(rng)
    for index, points in enumerate(THINGS[name]):
        fill = inks[0] if index == 0 else inks[1 + index % 2]
        draw.polygon([(x * k, y * k) for x, y in placed(points, cx, cy, half, turn)], fill=fill)
    picture = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    edge = Image.radial_gradient("L").resize((SIDE, SIDE)).point(lambda value: max(0, value - 110) * 0.9)
    return Image.composite(Image.new("RGB", (SIDE, SIDE), (58, 36, 18)), picture, edge)
