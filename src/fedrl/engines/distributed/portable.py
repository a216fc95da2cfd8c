"""Send objects made of functions, such as federations, to another process.

    federation --dumps--> bytes: constructor calls, arrays, references to functions --loads--> the same federation

A component is written as the call that built it, and is built again from it: the functions in it may refer to compiled
programs and rules of differentiation, which can't be copied. Functions are written by their name where the other
process can import them, else with their code, as by cloudpickle.

Reading these bytes runs code, so they are exchanged only with processes that this one has started.
"""

from __future__ import annotations

import inspect
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from fedrl.core.component import call_of
from fedrl.core.errors import ConfigError


def dumps(value: object) -> bytes:
    """Return an object as bytes for a process that this one has started.

    Raises:
        ConfigError: A part of it can't be written.
    """
    file = io.BytesIO()
    try:
        _pickler(file).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError) as fault:
        raise ConfigError(
            f"A part of the federation can't be sent to another process ({_first_line(fault)}). Parts made of "
            "functions have to be built by a component, or by a function of a module that workers can import."
        ) from fault
    return file.getvalue()


def loads(content: bytes) -> Any:
    """Return the object again.

    Raises:
        ConfigError: It needs a module that can't be imported here.
    """
    try:
        return pickle.loads(content)
    except ModuleNotFoundError as fault:
        raise ConfigError(
            f"A worker can't import the module {fault.name!r}, which the experiment needs. Install it on the worker's "
            "machine, or start the run where the module can be imported from the working directory or PYTHONPATH."
        ) from fault


def _pickler(file: io.BytesIO) -> Any:
    from ray import cloudpickle

    base: Any = cloudpickle.CloudPickler

    class Portable(base):
        """Writes components as constructor calls, and JAX's arrays as NumPy's."""

        def reducer_override(self, value: Any) -> Any:
            call = call_of(value)
            if call is not None:
                return _built, (call.component.build, call.arguments)
            if isinstance(value, jax.Array):
                return _key_or_array(value)
            return super().reducer_override(value)

    return Portable(file, protocol=pickle.HIGHEST_PROTOCOL)


def _built(build: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    bound = inspect.BoundArguments(inspect.signature(build), dict(arguments))
    return build(*bound.args, **bound.kwargs)


def _key_or_array(value: jax.Array) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        return _key, (np.asarray(jax.random.key_data(value)), str(jax.random.key_impl(value)))
    return jax.numpy.asarray, (np.asarray(value),)


def _key(data: np.ndarray, algorithm: str) -> jax.Array:
    return jax.random.wrap_key_data(jax.numpy.asarray(data), impl=algorithm)


def _first_line(fault: Exception) -> str:
    return (str(fault) or type(fault).__name__).strip().splitlines()[0]
