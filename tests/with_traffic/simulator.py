"""SUMO, for comparison: roads made by netconvert from XML written here, and one simulation per process.

    road, vehicle types, departures --XML--> netconvert --> sumo in a process of its own --> arrays, `[steps, cars]`

Run as a program, this file is that process: it reads a scenario from a file and leaves arrays in another one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

EMISSIONS = "HBEFA3/PC_G_EU4"


class Traces(NamedTuple):
    """Of each car after each step, NaN while it is not on the road; `[steps, cars]` each.

    Position in m and speed in m/s, acceleration in m/s2 and fuel in mg/s as SUMO tells them.
    """

    position: np.ndarray
    speed: np.ndarray
    acceleration: np.ndarray
    fuel: np.ndarray


def home() -> Path:
    import sumo

    return Path(sumo.__file__).parent


def program(name: str) -> str:
    """The path of one of SUMO's programs, beside this interpreter."""
    return str(home() / "bin" / name)


def environment() -> dict[str, str]:
    return {**os.environ, "SUMO_HOME": str(home())}


def made_road(folder: Path, length_m: float, limit: float, roads: int = 1) -> None:
    """Write straight roads of one lane, next to each other and without any junction between their ends."""
    nodes = [
        f'<node id="{end}{i}" x="{x}" y="{50 * i}"/>' for i in range(roads) for end, x in (("a", 0), ("b", length_m))
    ]
    edges = [f'<edge id="road{i}" from="a{i}" to="b{i}" numLanes="1" speed="{limit}"/>' for i in range(roads)]
    (folder / "road.nod.xml").write_text(f"<nodes>{''.join(nodes)}</nodes>")
    (folder / "road.edg.xml").write_text(f"<edges>{''.join(edges)}</edges>")
    call = [program("netconvert"), "-n", "road.nod.xml", "-e", "road.edg.xml", "-o", "road.net.xml"]
    subprocess.run(call, cwd=folder, env=environment(), check=True, capture_output=True, timeout=60)


def vehicle_type(name: str = "car", vehicle_class: str = "passenger", **attributes: Any) -> str:
    """A type that follows by IDM, with the numbers given, and drives neither faster nor slower than the rest."""
    given = {
        "id": name,
        "vClass": vehicle_class,
        "carFollowModel": "IDM",
        "emissionClass": EMISSIONS,
        "speedFactor": 1,
        "speedDev": 0,
        **attributes,
    }
    written = " ".join(f'{key}="{value}"' for key, value in given.items())
    return f"<vType {written}/>"


def simulated(folder: Path, scenario: dict[str, Any]) -> Traces:
    """Run a scenario in a process of its own.

    Its entries are `routes` (XML), `dt` (s), `steps`, `cars` (their names, in order) and `leader`: the speed of the
    first car at every step, or None if it drives by itself.
    """
    (folder / "routes.rou.xml").write_text(f"<routes>{scenario.pop('routes')}</routes>")
    (folder / "scenario.json").write_text(json.dumps(scenario))
    subprocess.run([sys.executable, __file__, str(folder)], env=environment(), check=True, timeout=100)
    with np.load(folder / "traces.npz") as found:
        return Traces(*(found[name] for name in Traces._fields))


def emitted(folder: Path, speed: np.ndarray, acceleration: np.ndarray) -> np.ndarray:
    """The fuel of SUMO's own table at speeds and accelerations, in mg/s, rounded to six digits."""
    rows = zip(speed, acceleration, strict=True)
    (folder / "cycle.csv").write_text("".join(f"{i};{v:.9f};{a:.9f}\n" for i, (v, a) in enumerate(rows)))
    call = [program("emissionsDrivingCycle"), "-t", "cycle.csv", "-e", EMISSIONS, "-o", "fuel.csv"]
    subprocess.run(call, cwd=folder, env=environment(), check=True, capture_output=True, timeout=60)
    return np.array([float(line.split(";")[9]) for line in (folder / "fuel.csv").read_text().splitlines()])


def trips(
    folder: Path, planned: np.ndarray, length_m: float, limit: float, entry_speed: float, dt: float, seconds: int
) -> list[dict[str, np.ndarray]]:
    """Let cars enter roads at planned times, `[rates, seeds, cars]` in s, all in one simulation.

    Returns, of each rate and over its seeds, how many cars passed in the given time, how long these took from their
    entry (s), what they burnt (g) and how long they waited outside (s).
    """
    rates, seeds, _ = planned.shape
    made_road(folder, length_m, limit, roads=rates * seeds)
    due = sorted(
        (time, road)
        for road, times in enumerate(planned.reshape(rates * seeds, -1))
        for time in times
        if time < seconds
    )
    ways = "".join(f'<route id="way{road}" edges="road{road}"/>' for road in range(rates * seeds))
    cars = "".join(
        f'<vehicle id="{number}" type="car" route="way{road}" depart="{time:.1f}" departPos="0" '
        f'departSpeed="{entry_speed}"/>'
        for number, (time, road) in enumerate(due)
    )
    (folder / "routes.rou.xml").write_text(f"<routes>{vehicle_type()}{ways}{cars}</routes>")
    call = [
        program("sumo"),
        "-n",
        "road.net.xml",
        "-r",
        "routes.rou.xml",
        "--step-length",
        str(dt),
        "--end",
        str(seconds),
    ]
    call += ["--no-step-log", "--no-warnings", "--time-to-teleport", "-1", "--tripinfo-output", "trips.xml"]
    call += ["--device.emissions.probability", "1"]
    subprocess.run(call, cwd=folder, env=environment(), check=True, capture_output=True, timeout=100)
    found: list[list[tuple[float, ...]]] = [[] for _ in range(rates * seeds)]
    for trip in ElementTree.parse(folder / "trips.xml").getroot():
        burnt = float(trip.find("emissions").attrib["fuel_abs"]) / 1000.0
        found[due[int(trip.attrib["id"])][1]].append(
            (float(trip.attrib["duration"]), burnt, float(trip.attrib["departDelay"]))
        )
    each = [(len(road), *np.mean(road, axis=0)) for road in found]
    return [
        dict(zip(("passed", "time", "fuel", "wait"), np.array(each[seeds * i : seeds * (i + 1)]).T, strict=True))
        for i in range(rates)
    ]


def defaults(folder: Path, vehicle_class: str) -> dict[str, float]:
    """What SUMO assumes of a vehicle class."""
    made_road(folder, 100.0, 13.89)
    (folder / "routes.rou.xml").write_text(f'<routes><vType id="asked" vClass="{vehicle_class}"/></routes>')
    asked = (
        "import json, libsumo; libsumo.start(['sumo', '-n', 'road.net.xml', '-r', 'routes.rou.xml', '--no-step-log']);"
        "t = libsumo.vehicletype; print(json.dumps(dict(length=t.getLength('asked'), min_gap=t.getMinGap('asked'),"
        "acceleration=t.getAccel('asked'), deceleration=t.getDecel('asked'), emergency=t.getEmergencyDecel('asked'),"
        "time_gap=t.getTau('asked'))))"
    )
    call = [sys.executable, "-c", asked]
    found = subprocess.run(call, cwd=folder, env=environment(), check=True, capture_output=True, timeout=60, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def main(folder: Path) -> None:
    import libsumo

    scenario = json.loads((folder / "scenario.json").read_text())
    call = ["sumo", "-n", str(folder / "road.net.xml"), "-r", str(folder / "routes.rou.xml")]
    call += ["--step-length", str(scenario["dt"]), "--no-step-log", "--no-warnings", "--time-to-teleport", "-1"]
    libsumo.start([*call, *scenario.get("options", [])])
    column = {name: i for i, name in enumerate(scenario["cars"])}
    found = np.full((len(Traces._fields), scenario["steps"], len(column)), np.nan)
    vehicle = libsumo.vehicle
    for time in range(scenario["steps"]):
        if scenario["leader"] is not None and scenario["cars"][0] in vehicle.getIDList():
            vehicle.setSpeedMode(scenario["cars"][0], 0)
            vehicle.setSpeed(scenario["cars"][0], scenario["leader"][time])
        libsumo.simulationStep()
        for name in vehicle.getIDList():
            found[:, time, column[name]] = (
                vehicle.getLanePosition(name),
                vehicle.getSpeed(name),
                vehicle.getAcceleration(name),
                vehicle.getFuelConsumption(name),
            )
    libsumo.close()
    np.savez(folder / "traces.npz", **dict(zip(Traces._fields, found, strict=True)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
