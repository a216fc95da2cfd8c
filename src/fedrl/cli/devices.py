"""The option `--devices` of the commands that compute (`run`, `sweep`, `scale`, `evaluate`)."""

from fedrl.launch import use_devices

__all__ = ["use_devices"]
