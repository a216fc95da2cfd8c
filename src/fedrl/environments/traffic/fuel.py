"""The fuel that a passenger car burns, by the emission class PC_G_EU4 (petrol, Euro 4) of HBEFA 3.1, as SUMO has it.

    f(v, a) = max(0, 837.222 - 41.3889 v + 2.50389 v^2 + 83.1389 v a)  mg/s,    v in m/s, a in m/s2

No fuel is burnt while the car coasts: v > 0.5 m/s, and it slows down faster than by drag and rolling resistance,

    a < a_coast(v) = -(0.107948 + 0.0129766 v),    from 10 km/h on; below it is a_coast(10 km/h) v / (10 km/h)

The coefficients of f are those of SUMO's table, in g/h, divided by 3.6. The two of a_coast were measured: SUMO's
`emissionsDrivingCycle` was asked at which acceleration the fuel becomes 0, for speeds from 1 to 45 m/s.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.environments.traffic.car_following import Numbers

IDLE, LINEAR, SQUARE, POWER = 3014.0 / 3.6, -149.0 / 3.6, 9.014 / 3.6, 299.3 / 3.6
"""Coefficients of 1, v, v^2 and v a, in mg/s."""
ROLLING, DRAG = 0.107948264, 0.0129766401
"""Deceleration of a coasting car: at no speed, in m/s2, and its growth, in 1/s."""
ROLLING_FROM, CREEPING = 10.0 / 3.6, 0.5
"""The speed from which on a_coast is a line, and the one below which nothing coasts, in m/s."""
PETROL = 742.0
"""The density of petrol, in g/l."""


def coasting_acceleration(speed: Numbers) -> jax.Array:
    """Return the acceleration below which a car at this speed burns nothing, in m/s2; see the top of this file.

    Args:
        speed: v, in m/s.

    >>> [round(coasting_acceleration(v).item(), 2) for v in (1.0, 10.0, 20.0, 30.0)]
    [-0.05, -0.24, -0.37, -0.5]
    """
    faster = jnp.maximum(speed, ROLLING_FROM)
    return -(ROLLING + DRAG * faster) * jnp.minimum(speed, ROLLING_FROM) / ROLLING_FROM


def fuel_rate(speed: Numbers, acceleration: Numbers) -> jax.Array:
    """Return the fuel that a passenger car burns, in mg/s; see the top of this file.

    Args:
        speed: v, in m/s; SUMO takes the speed after its step.
        acceleration: a, in m/s2.

    Reference: Krajzewicz et al. (2015), https://sumo.dlr.de/docs/Models/Emissions/HBEFA3-based.html

    >>> round(fuel_rate(0.0, 0.0).item(), 2), round(fuel_rate(10.0, 0.0).item(), 2), fuel_rate(10.0, -1.0).item()
    (837.22, 673.72, 0.0)
    """
    burnt = IDLE + LINEAR * speed + SQUARE * jnp.square(speed) + POWER * speed * acceleration
    coasts = (speed > CREEPING) & (acceleration < coasting_acceleration(speed))
    return jnp.where(coasts, 0.0, jnp.maximum(burnt, 0.0))


def litres_per_100_km(fuel_g: Numbers, distance_m: Numbers) -> Numbers:
    """Convert a mass of petrol (g) and a distance (m) to l/100 km.

    >>> litres_per_100_km(74.2, 1000.0)
    10.0
    """
    return fuel_g / PETROL / (distance_m / 1e5)
