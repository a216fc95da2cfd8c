"""What pictures of environments have in common: colours, and a canvas of Pillow (extra `render`)."""

from __future__ import annotations

from typing import Any

from fedrl.core.errors import ConfigError

PAPER, INK, ACCENT, SOFT = (255, 255, 255), (40, 44, 52), (214, 90, 49), (205, 210, 216)
SCALE = 2
"""A picture is drawn so many times as large and scaled down at the end, for smooth edges."""


def canvas(width: int, height: int) -> tuple[Any, Any]:
    """An empty picture of so many pixels, `SCALE` times as large, and a pen for it.

    Raises:
        ConfigError: Pillow is missing.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise ConfigError("A film needs Pillow, which is not installed. Run pip install 'fedrl[render]'.") from None
    image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    return image, ImageDraw.Draw(image)


def finished(image: Any) -> Any:
    """The picture in its own size."""
    return image.resize((image.width // SCALE, image.height // SCALE))
