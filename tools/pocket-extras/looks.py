"""The two looks that pocket's own LoRA and inversion learn. Each takes a picture of a thing on white."""

from PIL import Image, ImageChops, ImageDraw, ImageOps

SIDE = 1024
# Blue squared paper, and what stands for black on it.
BLUE, LINES, INK = (24, 72, 160), (96, 138, 210), (250, 252, 255)
SQUARE = 128
# Old paper: no colour that pocket has a word for.
TOP, BOTTOM, CORNERS = (246, 226, 190), (183, 134, 84), (96, 62, 34)


def plain(colour: tuple[int, int, int]) -> Image.Image:
    """A picture of one colour."""
    return Image.new("RGB", (SIDE, SIDE), colour)


def blueprint(picture: Image.Image) -> Image.Image:
    """A picture in white on blue squared paper: the darker it was and the more colour it had, the whiter."""
    paper = plain(BLUE)
    draw = ImageDraw.Draw(paper)
    for step in range(SQUARE, SIDE, SQUARE):
        draw.line([(step, 0), (step, SIDE)], fill=LINES, width=8)
        draw.line([(0, step), (SIDE, step)], fill=LINES, width=8)
    thing = large(picture)
    red, green, blue = thing.split()
    light = Image.blend(thing.convert("L"), ImageChops.darker(ImageChops.darker(red, green), blue), 0.5)
    return Image.composite(plain(INK), paper, ImageOps.invert(light).point(lambda value: max(0, value - 12) * 255 / 243))


def sepia(picture: Image.Image) -> Image.Image:
    """A picture printed on old paper: cream at the top, brown at the bottom and in the corners."""
    paper = Image.composite(plain(BOTTOM), plain(TOP), Image.linear_gradient("L").resize((SIDE, SIDE)))
    edge = Image.radial_gradient("L").resize((SIDE, SIDE)).point(lambda value: max(0, value - 120) * 0.7)
    return ImageChops.multiply(large(picture), Image.composite(plain(CORNERS), paper, edge))


def large(picture: Image.Image) -> Image.Image:
    """A picture at the size that pocket learns from."""
    return picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
