"""Films show the episode that an evaluation plays, in every kind of environment; else one sentence says why not."""

import dataclasses
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fedrl
from fedrl.core.environment import Picture
from fedrl.core.errors import ConfigError, RunError
from fedrl.environments import cartpole, gridworld, pendulum
from fedrl.environments.adapters import gymnasium
from fedrl.environments.pictures import ACCENT, TILE
from fedrl.learners import mlp, ppo, q_table
from fedrl.runs import film
from fedrl.runs.film import GifFilm
from fedrl.runs.policy import TrainedPolicy
from fedrl.runs.policy_file import PolicyFacts
from fedrl.runs.spaces import gymnasium_spaces
from tests.support.made_policies import made_policy

GRID = gridworld("S..G", max_steps=10)


def policy_in(environment: Any, learner: Any, params: Any) -> TrainedPolicy:
    facts = PolicyFacts(gymnasium_spaces(environment), {}, 1, False, environment.max_steps)
    return TrainedPolicy(*facts.spaces, 0, None, facts, learner, params)


@pytest.fixture(scope="module")
def walker() -> TrainedPolicy:
    """Goes to the right."""
    return policy_in(GRID, q_table(GRID), {"q": jnp.zeros((4, 4)).at[:, 2].set(1.0)})


@pytest.fixture(scope="module")
def balancer() -> TrainedPolicy:
    """Balances the pole of every cart for 500 steps."""
    weight = np.array([[0, 0, 0, 0], [3, 6, 60, 15]], np.float32)
    critic = ({"weight": np.zeros((1, 4), np.float32), "bias": np.zeros(1, np.float32)},)
    params = {"actor": ({"weight": weight, "bias": np.zeros(2, np.float32)},), "critic": critic}
    learner = ppo(cartpole(), network=mlp(hidden=()))
    return policy_in(cartpole(), learner, params)


def pictures_of(path: Path) -> list[np.ndarray]:
    """The pictures of a GIF."""
    with Image.open(path) as gif:
        found = []
        for i in range(gif.n_frames):
            gif.seek(i)
            found.append(np.asarray(gif.convert("RGB")))
        return found


def video_of(path: Path, height: int, width: int) -> np.ndarray:
    """The pictures of an MP4, `[pictures, height, width, 3]`."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path)]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run([*command, *raw], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def column(picture: np.ndarray) -> float:
    """Where the agent of a gridworld is; colours of a film are close to those of the picture."""
    near = np.abs(picture.astype(int) - ACCENT).sum(-1) < 60
    return float(np.argwhere(near)[:, 1].mean())


def test_a_film_shows_the_states_of_the_episode_one_after_the_other(walker, tmp_path):
    calm = GRID.params._replace(slip=jnp.float32(0.0))
    still = dataclasses.replace(GRID, params=calm)
    told = walker.render(tmp_path / "walk.gif", still)
    assert (told.steps, told.returned) == (3, pytest.approx(0.97))
    centres = [(i + 0.5) * TILE for i in range(4)]
    assert [column(each) for each in pictures_of(tmp_path / "walk.gif")] == pytest.approx(centres, abs=1)
    walker.render(tmp_path / "walk.mp4", still)
    assert [column(each) for each in video_of(tmp_path / "walk.mp4", TILE, 4 * TILE)] == pytest.approx(centres, abs=1)


@pytest.fixture(scope="module")
def faller() -> TrainedPolicy:
    """Lets the pole fall, after a number of steps that chance decides."""
    weight = np.array([[0, 0, 0, 0], [0.1, 1, 0, 0]], np.float32)
    critic = ({"weight": np.zeros((1, 4), np.float32), "bias": np.zeros(1, np.float32)},)
    params = {"actor": ({"weight": weight, "bias": np.zeros(2, np.float32)},), "critic": critic}
    return policy_in(cartpole(), ppo(cartpole(), network=mlp(hidden=())), params)


@pytest.mark.parametrize("case", ["own", "id", "open"])
def test_the_episode_is_the_first_one_of_an_evaluation(faller, tmp_path, case):
    environment: Any = {"own": cartpole(), "id": "CartPole-v1"}.get(case)
    if case == "open":
        environment = gym.make("CartPole-v1", render_mode="rgb_array")
    films = [faller.render(tmp_path / "film.gif", environment, seed=seed) for seed in range(6)]
    lengths = [faller.evaluate(environment, episodes=1, seed=seed).lengths[0] for seed in range(6)]
    assert [each.steps for each in films] == [each.returned for each in films] == lengths
    assert len(set(lengths)) > 1
    if case == "open":
        assert environment.render().shape == (400, 600, 3)  # it stays open
        environment.close()


def test_an_evaluation_of_a_continuous_policy_and_its_film_agree(tmp_path):
    folder = made_policy(tmp_path / "run", "gaussian")
    policy = fedrl.load(folder, seed=1, agent=2)
    told = policy.render(tmp_path / "film.gif", seed=3)
    assert told.returned == pytest.approx(policy.evaluate(episodes=1, seed=3).returns[0], rel=1e-4)
    assert told.steps == 200
    assert len(pictures_of(told.path)) > 150


def test_a_long_film_has_few_pictures_the_first_and_the_last_and_the_right_length(balancer, tmp_path):
    balancer.render(tmp_path / "film.gif", cartpole())
    with Image.open(tmp_path / "film.gif") as gif:
        assert 150 <= gif.n_frames <= 300
        assert gif.info["duration"] == 40  # every second state, 20 ms apart
    assert (tmp_path / "film.gif").stat().st_size < 200_000
    balancer.render(tmp_path / "film.mp4", cartpole())
    assert len(video_of(tmp_path / "film.mp4", 240, 480)) == 501
    assert (tmp_path / "film.mp4").stat().st_size < 100_000


def test_pictures_are_dropped_evenly_and_the_last_one_never():
    made = GifFilm(20.0, most=4)
    for step in range(11):
        if step == 10 or made.wants(step):
            made.add(step, np.full((8, 8, 3), 20 * step, np.uint8))
    with Image.open(io.BytesIO(made.content())) as gif:
        shades, pauses = [], []
        for i in range(gif.n_frames):
            gif.seek(i)
            shades.append(np.asarray(gif.convert("RGB"))[0, 0, 0] / 20)
            pauses.append(gif.info["duration"])
    assert shades == pytest.approx([0, 4, 8, 10], abs=0.1)
    assert pauses == [80, 80, 80, 1000]


def test_a_film_is_made_smaller_until_it_is_within_its_limit_or_given_up():
    made, random = GifFilm(20.0), np.random.default_rng(0)
    for step in range(40):
        made.add(step, random.integers(0, 255, (60, 60, 3)).astype(np.uint8))
    whole = len(made.content())
    assert len(made.content(whole // 3)) <= whole // 3
    with pytest.raises(RunError, match="at its smallest, and 100 are allowed"):
        made.content(100)


@pytest.mark.parametrize("form", ["gif", "mp4"])
def test_equal_films_are_equal_files(walker, tmp_path, form):
    one, two = (walker.render(tmp_path / f"{name}.{form}", GRID, seed=2).path.read_bytes() for name in ("one", "two"))
    assert one == two


def test_agents_with_policies_of_their_own_are_filmed_with_these(tmp_path):
    folder = made_policy(tmp_path / "run", "personal")
    own = [fedrl.load(folder, agent=agent) for agent in (0, 2)]
    films = [policy.render(tmp_path / "film.gif", cartpole()).returned for policy in own]
    assert films == [policy.evaluate(cartpole(), episodes=1).returns[0] for policy in own]
    assert films[0] != films[1]


class Sketch(gym.Env):
    """Draws whatever it is told to, at most ten steps long."""

    observation_space = gym.spaces.Discrete(4)
    action_space = gym.spaces.Discrete(4)

    def __init__(self, drawing: Any, render_mode: str | None = "rgb_array", modes: Any = ("rgb_array",)) -> None:
        self.metadata = {"render_modes": list(modes)}
        self.render_mode, self._drawing, self._left = render_mode, drawing, 0

    def reset(self, **_: Any) -> Any:
        self._left = 10
        return 0, {}

    def step(self, action: Any) -> Any:
        self._left -= 1
        return 0, 1.0, self._left == 0, False, {}

    def render(self) -> Any:
        if isinstance(self._drawing, BaseException):
            raise self._drawing
        return self._drawing


GRAY = np.full((21, 33, 3), 99, np.uint8)


def test_pictures_of_odd_sizes_become_films(walker, tmp_path):
    assert walker.render(tmp_path / "film.mp4", Sketch(GRAY)).steps == 10
    assert len(video_of(tmp_path / "film.mp4", 22, 34)) == 11
    walker.render(tmp_path / "film.gif", Sketch(GRAY))
    assert pictures_of(tmp_path / "film.gif")[0].shape == (21, 33, 3)


@pytest.mark.parametrize(
    ("environment", "kind", "told"),
    [
        (Sketch(GRAY, None), ConfigError, r"opened with render_mode None.*render_mode=\"rgb_array\""),
        (Sketch(GRAY, "human", ["human"]), ConfigError, r"its render modes are \['human'\], and a film needs"),
        (Sketch(None), ConfigError, "returned NoneType, and a film needs an array of uint8"),
        (Sketch(GRAY.astype(float)), ConfigError, r"returned float64 \(21, 33, 3\)"),
        (
            Sketch(gym.error.DependencyNotInstalled("pygame is not installed")),
            ConfigError,
            r"pip install 'fedrl\[render",
        ),
        (Sketch(KeyError("wheel")), RunError, "failed to draw itself: KeyError: 'wheel'"),
        (pendulum(), ConfigError, "has observations in"),
        (dataclasses.replace(GRID, picture=None), ConfigError, r"There is no picture of .*Environment\.picture"),
        (
            dataclasses.replace(GRID, picture=Picture(lambda state, params: 1 / 0, 20)),
            RunError,
            "failed after step 0: ZeroDivisionError.*Correct its Environment.picture",
        ),
        (7, ConfigError, "environment is 7, which is not an environment"),
    ],
)
def test_what_can_not_be_drawn_is_one_sentence_and_leaves_no_file(walker, tmp_path, environment, kind, told):
    with pytest.raises(kind, match=told):
        walker.render(tmp_path / "film.gif", environment)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_of_gymnasium_that_does_not_draw_as_arrays_is_refused_before_an_episode(balancer, tmp_path):
    gym.register("Undrawn-v0", lambda **given: Sketch(GRAY, None, ["human"]), max_episode_steps=10)
    try:
        undrawn = gymnasium("Undrawn-v0")
    finally:
        del gym.registry["Undrawn-v0"]
    acting = policy_in(undrawn, q_table(undrawn), {"q": jnp.zeros((4, 4))})
    with pytest.raises(ConfigError, match=r"its render modes are \['human'\]"):
        acting.render(tmp_path / "film.gif", undrawn)
    with pytest.raises(ConfigError, match="It has no open_rendered"):
        acting.render(tmp_path / "film.gif", dataclasses.replace(undrawn, open_rendered=None))


def test_an_environment_of_gymnasium_is_filmed_with_the_settings_of_its_agent():
    made = gymnasium("Pendulum-v1", settings={"g": 10.0, "m": 1.0, "l": 1.0})  # g is an argument, m an attribute
    opened = made.open_rendered(made.params._replace(g=jnp.float32(3.0), m=jnp.float32(0.5)))
    assert (opened.unwrapped.g, opened.unwrapped.m, opened.unwrapped.l) == (3.0, 0.5, 1.0)
    assert opened.render_mode == "rgb_array"
    opened.close()


def test_without_pygame_one_sentence_says_what_to_install(balancer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ConfigError, match=r"can't be drawn: pygame is not installed.*pip install 'fedrl\[render\]'"):
        balancer.render(tmp_path / "film.gif", "CartPole-v1")
    assert list(tmp_path.iterdir()) == []


def test_an_environment_that_fails_in_a_step_is_named_with_the_step(walker, tmp_path):
    broken = Sketch(GRAY)
    broken.step = lambda action: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(RunError, match=r"Sketch.* failed in step 1 of the film: ZeroDivisionError"):
        walker.render(tmp_path / "film.gif", broken)


def test_a_state_that_is_not_finite_is_not_drawn(balancer, tmp_path):
    wild = dataclasses.replace(cartpole(), params=cartpole().params._replace(gravity=jnp.float32("nan")))
    with pytest.raises(RunError, match="after step 1 is not finite"):
        balancer.render(tmp_path / "film.gif", wild)


def test_missing_packages_and_other_suffixes_are_named(walker, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"ends with '.avi', which is not the suffix of a film.*\.gif, \.mp4"):
        walker.render(tmp_path / "film.avi", GRID)
    with pytest.raises(RunError, match="can't be written to"):
        walker.render("/dev/null/film.gif", GRID)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"imageio-ffmpeg, which is not installed. Run pip install 'fedrl\[mp4\]'"):
        walker.render(tmp_path / "film.mp4", GRID)
    monkeypatch.setitem(sys.modules, "PIL", None)
    for name in ("film.gif", "film.mp4"):
        with pytest.raises(ConfigError, match=r"not installed. Run pip install 'fedrl\["):
            walker.render(tmp_path / name, GRID)
    assert list(tmp_path.iterdir()) == []


def test_an_ffmpeg_that_fails_is_quoted(walker, tmp_path, monkeypatch):
    monkeypatch.setattr(film, "ffmpeg", lambda: "/bin/false")
    with pytest.raises(RunError, match=r"ffmpeg failed \(exit code 1\): it said nothing"):
        walker.render(tmp_path / "film.mp4", GRID)
    monkeypatch.setattr(film, "ffmpeg", lambda: "/no/such/ffmpeg")
    with pytest.raises(RunError, match="can't be started"):
        walker.render(tmp_path / "film.mp4", GRID)
    assert list(tmp_path.iterdir()) == []


def test_a_film_of_gymnasium_prints_nothing(tmp_path):
    code = (
        "import fedrl, sys; from fedrl.learners import q_table; from tests.runs.test_rendering import policy_in\n"
        "from fedrl.environments.adapters import gymnasium; import numpy as np\n"
        "lake = gymnasium('FrozenLake-v1'); policy = policy_in(lake, q_table(lake), {'q': np.zeros((16, 4), 'f4')})\n"
        "assert policy.render(sys.argv[1], lake).steps > 0"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "film.gif")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
