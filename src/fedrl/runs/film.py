"""Films as files: an animated GIF (extra `render`), or an MP4 (extra `mp4`).

an episode's shots --GifFilm--> every n-th picture, few colours, memory for at most 300 --> GIF
                   --Mp4Film--> every picture, passed on to ffmpeg at once               --> MP4
"""

from __future__ import annotations

import io
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fedrl.core.errors import ConfigError, RunError, nearest
from fedrl.environments.pictures import pillow

MOST_FRAMES, MOST_WIDTH, COLOURS = 300, 640, 128
"""The largest number of pictures of a GIF, their largest width in pixels, and their number of colours."""
SAID = "said.txt"
INSTEAD = "Write a GIF instead, or set IMAGEIO_FFMPEG_EXE to another ffmpeg."
LAST_MS = 1000
"""How long a GIF shows the last picture before it begins again."""


class Film(NamedTuple):
    """A film that was written.

    Attributes:
        path: The path of the file.
        returned: The undiscounted return of the episode.
        steps: The number of steps of the episode.
    """

    path: Path
    returned: float
    steps: int


class GifFilm:
    """Collects the pictures of a GIF: if there are too many, every second one is dropped."""

    def __init__(self, pause_ms: float, most: int = MOST_FRAMES, width: int = MOST_WIDTH) -> None:
        self.frames: list[Any] = []
        self._image, _ = pillow()
        self._pause_ms, self._most, self._width = pause_ms, most, width
        self._stride = 1
        self._last: Any = None

    def wants(self, step: int) -> bool:
        """Return whether the picture of this step is needed; that of the last step always is."""
        return step % self._stride == 0

    def add(self, step: int, picture: np.ndarray) -> None:
        """Add the picture of a step, uint8 `[height, width, 3]`."""
        image = self._image.fromarray(picture)
        if image.width > self._width:
            image = image.reduce(-(-image.width // self._width))
        self._last = image
        if not self.wants(step):
            return
        self.frames.append(image)
        if len(self.frames) > self._most:
            self._thin()

    def close(self) -> None:
        """Forget the pictures."""
        self.frames = []

    def content(self, limit_bytes: int | None = None) -> bytes:
        """Return the bytes of the file: with every second picture, or half the size, until it is within a limit.

        Raises:
            RunError: It is not, with an eighth of the pictures at half the size.
        """
        for attempt in range(6):
            found = self._encoded()
            if limit_bytes is None or len(found) <= limit_bytes:
                return found
            if attempt % 2 == 0:
                self._thin()
            else:
                self.frames = [frame.reduce(2) for frame in self.frames]
                self._last = self._last.reduce(2)
        raise RunError(f"The film takes {len(found)} bytes at its smallest, and {limit_bytes} are allowed.")

    def _thin(self) -> None:
        self.frames = self.frames[::2]
        self._stride *= 2

    def _encoded(self) -> bytes:
        frames = self.frames if self.frames[-1] is self._last else [*self.frames, self._last]
        # One palette for all pictures: a palette of its own takes up to 768 bytes of each, and colours would flicker.
        shown = frames[:: -(-len(frames) // 6)]
        strip = self._image.new("RGB", (shown[0].width, sum(frame.height for frame in shown)))
        for i, frame in enumerate(shown):
            strip.paste(frame, (0, i * frame.height))
        palette = strip.quantize(COLOURS)
        few = [frame.quantize(palette=palette, dither=self._image.Dither.NONE) for frame in frames]
        # GIF has hundredths of a second, and browsers slow down films with less than two of them.
        pause = max(20, round(self._pause_ms * self._stride / 10) * 10)
        file = io.BytesIO()
        few[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=few[1:],
            duration=[*[pause] * (len(few) - 1), max(pause, LAST_MS)],
            loop=0,
            optimize=False,
        )
        return file.getvalue()


class Mp4Film:
    """Passes all pictures on to ffmpeg, which writes to a temporary file."""

    def __init__(self, pause_ms: float) -> None:
        self._program = ffmpeg()
        self._rate = 1000.0 / pause_ms
        self._folder = tempfile.TemporaryDirectory(prefix="fedrl-")
        self._path = Path(self._folder.name) / "film.mp4"
        self._process: subprocess.Popen[bytes] | None = None

    def wants(self, step: int) -> bool:
        """Return whether the picture of this step is needed: always."""
        del step
        return True

    def add(self, step: int, picture: np.ndarray) -> None:
        """Add the picture of a step, uint8 `[height, width, 3]`."""
        del step
        # The colour format has one colour for two by two pixels, so both sides are even.
        high, wide = (size % 2 for size in picture.shape[:2])
        even = np.pad(picture, ((0, high), (0, wide), (0, 0)), mode="edge")
        if self._process is None:
            self._process = self._started(even.shape[1], even.shape[0])
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(even).data)
        except OSError:  # it has ended, and says why
            self._finish(self._process)

    def content(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            RunError: ffmpeg failed.
        """
        assert self._process is not None
        self._finish(self._process)
        return self._path.read_bytes()

    def close(self) -> None:
        """End ffmpeg and remove the temporary files."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._folder.cleanup()

    def _started(self, width: int, height: int) -> subprocess.Popen[bytes]:
        given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{self._rate:g}", "-i", "-"]
        # One thread, and no versions in the file: equal films are equal files.
        coded = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-threads", "1"]
        file = ["-movflags", "+faststart", "-fflags", "+bitexact", "-flags:v", "+bitexact", str(self._path)]
        command = [self._program, "-loglevel", "error", "-y", *given, *coded, *file]
        with (Path(self._folder.name) / SAID).open("wb") as said:
            try:
                # A session of its own: Ctrl-C ends the film by an error here, and not by a torn file.
                return subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
                )
            except OSError as error:
                raise RunError(f"{self._program} can't be started: {error}. {INSTEAD}") from error

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(OSError):
            process.communicate()
        if process.returncode:
            said = (Path(self._folder.name) / SAID).read_text(errors="replace").strip()
            raise RunError(f"ffmpeg failed (exit code {process.returncode}): {said or 'it said nothing'}. {INSTEAD}")


def ffmpeg() -> str:
    """Return the path of ffmpeg.

    Raises:
        ConfigError: imageio-ffmpeg, which contains it, is not installed, or has none for this computer.
    """
    try:
        import imageio_ffmpeg
    except ImportError:
        raise ConfigError(
            "An MP4 film needs imageio-ffmpeg, which is not installed. Run pip install 'fedrl[mp4]', or write a GIF."
        ) from None
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise ConfigError(f"imageio-ffmpeg found no ffmpeg for this computer: {error} {INSTEAD}") from None


AnyFilm: TypeAlias = GifFilm | Mp4Film
"""A film in the making."""

FORMS: dict[str, type[AnyFilm]] = {".gif": GifFilm, ".mp4": Mp4Film}
"""The kinds of films, by the suffix of their files."""


def form_of(path: Path) -> type[AnyFilm]:
    """Return the kind of film of a path's suffix.

    Raises:
        ConfigError: The suffix is another one.
    """
    if path.suffix.lower() not in FORMS:
        raise ConfigError(
            f"{path} ends with {path.suffix!r}, which is not the suffix of a film. {nearest(path.suffix, FORMS)}"
        )
    return FORMS[path.suffix.lower()]
