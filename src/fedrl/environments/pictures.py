"""Colours and a Pillow canvas for the pictures of environments (extra `render`).

A picture is drawn on a plane with x to the right and y upwards, several times as large as it will be, and scaled down
at the end, for smooth edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from fedrl.core.errors import ConfigError

PAPER, INK, ACCENT, SOFT = (255, 255, 255), (40, 44, 52), (214, 90, 49), (205, 210, 216)
GREEN, BLUE = (120, 170, 110), (70, 110, 160)
SCALE = 3
"""Factor by which a picture is drawn larger and scaled down at the end, for smooth edges."""
TILE = 40
"""Pixels of a cell of a grid."""

Point: TypeAlias = tuple[float, float]
Colour: TypeAlias = tuple[int, int, int]


class Plane(NamedTuple):
    """A drawing; points are in the units of the environment, with y upwards, and line widths are in pixels.

    >>> picture = plane(width=100, height=60, unit=10, origin=(50, 50))
    >>> picture.line([(0.0, 0.0), (0.0, 3.0)], ACCENT, width=4)
    >>> picture.finished().size, picture.finished().getpixel((50, 30)) == ACCENT
    ((100, 60), True)

    Attributes:
        image: The Pillow image.
        pen: Its drawing context.
        origin: The pixel of the point (0, 0).
        unit: The number of pixels of a unit.
    """

    image: Any
    pen: Any
    origin: Point
    unit: float

    def at(self, point: Point) -> Point:
        """Return the pixel of a point."""
        return self.origin[0] + point[0] * self.unit, self.origin[1] - point[1] * self.unit

    def line(self, points: Sequence[Point], colour: Colour, width: float = 1.0) -> None:
        """Draw a line through points, with round ends if it is wide."""
        pixels, broad = [self.at(point) for point in points], max(1, round(width * SCALE))
        self.pen.line(pixels, fill=colour, width=broad, joint="curve")
        if width >= 4:
            for x, y in (pixels[0], pixels[-1]):
                half = broad / 2
                self.pen.ellipse([x - half, y - half, x + half, y + half], fill=colour)

    def shape(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon."""
        self.pen.polygon([self.at(point) for point in points], fill=colour)

    def box(self, low: Point, high: Point, colour: Colour, outline: Colour | None = None) -> None:
        """Fill a rectangle between its lower left and its upper right corner."""
        (left, bottom), (right, top) = self.at(low), self.at(high)
        self.pen.rectangle([left, top, right, bottom], fill=colour, outline=outline)

    def disc(self, centre: Point, radius: float, colour: Colour, outline: Colour | None = None) -> None:
        """Fill a disc whose radius is in units."""
        (x, y), size = self.at(centre), radius * self.unit
        self.pen.ellipse([x - size, y - size, x + size, y + size], fill=colour, outline=outline, width=2 * SCALE)

    def arrow(self, start: Point, end: Point, colour: Colour, width: float = 2.0) -> None:
        """Draw an arrow, unless it is shorter than its head."""
        head = 4.0 * width * SCALE / self.unit
        right, up = end[0] - start[0], end[1] - start[1]
        length = math.hypot(right, up)
        if length <= head:
            return
        right, up = right / length, up / length
        neck = (end[0] - head * right, end[1] - head * up)
        side = 0.5 * head
        self.line([start, neck], colour, width)
        self.shape(
            [end, (neck[0] - side * up, neck[1] + side * right), (neck[0] + side * up, neck[1] - side * right)], colour
        )

    def text(self, centre: Point, text: str, colour: Colour, size: float = 11.0) -> None:
        """Write a text around a point; its size is in pixels."""
        from PIL import ImageFont

        self.pen.text(self.at(centre), text, fill=colour, font=ImageFont.load_default(size * SCALE), anchor="mm")

    def finished(self) -> Any:
        """Return the image in its final size."""
        return self.image.reduce(SCALE)


def plane(width: int, height: int, unit: float, origin: Point) -> Plane:
    """Return an empty plane.

    Args:
        width: The width of the picture, in pixels.
        height: The height, in pixels.
        unit: The number of pixels of a unit.
        origin: The pixel of the point (0, 0), from the upper left corner.

    Raises:
        ConfigError: Pillow is missing.
    """
    library, drawing = pillow()
    image = library.new("RGB", (width * SCALE, height * SCALE), PAPER)
    return Plane(image, drawing.Draw(image), (origin[0] * SCALE, origin[1] * SCALE), unit * SCALE)


def pillow() -> tuple[Any, Any]:
    """Import Pillow's modules `Image` and `ImageDraw`.

    Raises:
        ConfigError: Pillow is missing.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise ConfigError("A film needs Pillow, which is not installed. Run pip install 'fedrl[render]'.") from None
    return Image, ImageDraw


def blend(colour: Colour, other: Colour, share: float) -> Colour:
    """Return the mixture of two colours with this share of the second one, from 0 to 1.

    >>> blend((0, 0, 0), (100, 200, 50), 0.5)
    (50, 100, 25)
    """
    share = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def grid_drawing(
    rows: Sequence[Sequence[Colour]], cells: Sequence[tuple[int, int]], labels: Sequence[str] = ()
) -> Callable[[int], Any]:
    """Return the function that draws the agent in a cell of a grid.

    Args:
        rows: The colour of each tile, from the upper left corner.
        cells: Row and column of each cell.
        labels: A letter for each cell; none by default.
    """
    height, width = len(rows), len(rows[0])

    def draw(cell: int) -> Any:
        picture = plane(TILE * width, TILE * height, TILE, (0, TILE * height))
        for row, tiles in enumerate(rows):
            for column, colour in enumerate(tiles):
                low = (float(column), float(height - row - 1))
                picture.box(low, (low[0] + 1.0, low[1] + 1.0), colour, SOFT)
        for (row, column), label in zip(cells, labels, strict=False):
            if label:
                picture.text((column + 0.5, height - row - 0.5), label, INK, 14.0)
        row, column = cells[cell]
        picture.disc((column + 0.5, height - row - 0.5), 0.3, ACCENT)
        return picture.finished()

    return draw
