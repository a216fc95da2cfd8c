"""A shield against collisions at a junction: the largest speed that keeps each vehicle able to stop in time.

    proposed speed --min(., safe_speed(room))--> speed        room = the way that a vehicle may need until it stands

Speeds are constant within a step of dt, and a vehicle that brakes with b from the speed v stops after

    D_b(v) = dt sum_{k >= 1} max(0, v - k b dt)

Nobody brakes harder than its emergency deceleration B, and all shielded vehicles count on b, the least of these. Let
g be the gap to a vehicle ahead with speed v_l and emergency deceleration B_l. The shield keeps, for every pair and
with a margin m,

    (1)   g >= 0    and    D_b(v) + m <= g + D_{B_l}(v_l)
    (2)   D_b(v) + m <= -x    if the vehicle at position x < 0 has no right to enter the junction

by choosing v' with v' dt + D_b(v') + m <= g + D_{B_l}(v_l) (and <= -x). Why there is no collision:

- *It can always be kept.* Braking with b, v' dt + D_b(v') = D_b(v), so that (1) and (2) hold after the step if they
  held before. The way x + D(v) of a leader does not get smaller, whatever it does, because v_l' >= v_l - B_l dt.
- *Nobody runs into the vehicle ahead.* If the gap became negative in a step, then by (1) the follower would have the
  shorter way left to stop, D_b(v') < D_{B_l}(v_l'). Since b <= B_l, D_b >= D_{B_l}, so v' < v_l', and the gap would
  have grown.
- *Nobody meets a vehicle from another arm.* The right to enter is given to a vehicle only if everyone who has it, or
  had it, and whose route conflicts with its own, has left their common zone with its rear
  (`junction_conflicts.granted`). Nobody drives backwards, so of two vehicles on conflicting routes at most one is
  between its stop line and the end of the zone. By (2), one without the right stops before its stop line. Of two
  routes to the same exit, the zone ends with the
  square: there the second one is still before its stop line, and by (2), (1) holds for it as a follower.
- *A change of lane* needs (1) to the vehicles ahead and behind in the new lane, and *an arrival* to the last one in
  its lane. Changes are over before the last `SOLID_LINE` m of the approach, in which rights to enter are given.

The argument needs that all vehicles are shielded and that nothing else brakes harder than B. Times are discrete, and
speeds constant in a step, so gaps are linear in it and it holds between steps as well.

Reference: Shalev-Shwartz, Shammah, Shashua (2017), https://arxiv.org/abs/1708.06374 (the gap between two vehicles);
Dresner, Stone (2008), https://doi.org/10.1613/jair.2502 (exclusive rights to enter a junction)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.environments.traffic.car_following import TRUCK, Numbers

BRAKING = float(TRUCK.emergency)
"""b, in m/s2: the least of all emergency decelerations."""
MARGIN = 0.5
"""m, the way that is left between bumpers, and before the stop line, in m."""
SOLID_LINE = 60.0
"""The last part of an approach, in which nobody changes lanes, in m."""


def stopping_distance(speed: Numbers, braking: Numbers, dt: float) -> jax.Array:
    """Return D_b(v), the way until a vehicle stands that brakes from now on, in m; see the top of this file.

    Args:
        speed: v, in m/s.
        braking: b, in m/s2.
        dt: The length of a step, in s.

    >>> stopping_distance(10.0, 4.0, 1.0).item()  # 6 and 2
    8.0
    """
    slower = jnp.asarray(braking) * dt
    steps = jnp.floor(speed / slower)
    return dt * (steps * speed - slower * steps * (steps + 1.0) / 2.0)


def safe_speed(room: Numbers, braking: Numbers, dt: float) -> jax.Array:
    """Return the largest v' with v' dt + D_b(v') <= room, in m/s; 0 if there is no room.

    With n b dt <= v' < (n + 1) b dt, the way is dt (n + 1) (v' - n b dt / 2).

    Args:
        room: In m; infinite for no bound.
        braking: b, in m/s2.
        dt: The length of a step, in s.

    >>> safe_speed(18.0, 4.0, 1.0).item()  # 10, 6 and 2
    10.0
    """
    slower = jnp.asarray(braking) * dt
    left = jnp.clip(room, 0.0, 1e4)
    steps = jnp.floor(0.5 * (jnp.sqrt(1.0 + 8.0 * left / (dt * slower)) - 1.0))
    return left / (dt * (steps + 1.0)) + steps * slower / 2.0
