"""Colours and a Pillow canvas for the pictures of environments (extra `render`)."""

from __future__ import annotations

from typing import Any

from fedrl.core.errors import ConfigError

PAPER, INK, ACCENT, SOFT = (255, 255, 255), (40, 44, 52), (214, 90, 49), (205, 210, 216)
SCALE = 2
"""Factor by which a picture is drawn larger and scaled down at the end, for smooth edges."""


def canvas(width: int, height: int) -> tuple[Any, Any]:
    """Return an empty image, `SCALE` times as large as `width` x `height` pixels, and a drawing context for it.

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
    """Return the image scaled down to its final size."""
    return image.resize((image.width // SCALE, image.height // SCALE))
