"""The file of a site, site.toml: where the coordinator is, what is trained here, and what may leave.

site.toml --load_site--> SiteConfig --build_site--> Site(federation, setting_of, options)

coordinator = "fed.example.org:7500"
certificates = "site-1"            # folder with ca.pem, certificate.pem and key.pem
experiment = "experiment.toml"     # the site's own copy: nothing is taken from the coordinator
environment = "mysite:make_env"    # instead of the experiment's
settings = {capacity = 3.0}        # instead of its fleet
encryption_key = "encryption.key"  # for encrypted sums alone: the same file at all sites, and not at the coordinator

[may_leave]
reports = ["loss"]
rounds_a_day = 500
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fedrl.config.build import build
from fedrl.config.catalogue import Table
from fedrl.config.coerce import coerce
from fedrl.config.fleet_tables import agents_in, fleet_settings
from fedrl.config.loading import load, tables_of, toml_of
from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.imports import search_beside
from fedrl.core.ranges import NonNegative, Whole, check_ranges, ranges_of
from fedrl.core.types import PyTree
from fedrl.federation.federation import Federation
from fedrl.network.sum_terms import check_encryption_key
from fedrl.secure.ckks import EncryptionKey
from fedrl.sites.policy import MayLeave, check_federation, check_guarantee, leaving_of
from fedrl.transport.grpc_transport import split

UNUSED = ("baselines", "evaluation", "executor", "init", "tensorboard")
"""What an experiment has for a simulation, and an agent does not do."""


@dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """The content of a site.toml. Paths in it are relative to its folder.

    Attributes:
        coordinator: Address of the coordinator, HOST:PORT.
        certificates: Folder with ca.pem, certificate.pem and key.pem of this site, as `fedrl certs issue` makes it.
        experiment: The site's own copy of the experiment.
        folder: Folder for the state of the agent and the log of what left.
        environment: The site's own environment, as a table or a name, instead of the experiment's.
        settings: Settings of the environment at this site, instead of the experiment's fleet.
        seed: Seed of the run, only for runs that are replayable.
        proxy: HTTP proxy, "http://HOST:PORT"; by default that of the variable `https_proxy`.
        give_up_s: Seconds without a coordinator after which the agent ends; by default it never does.
        encryption_key: File with the key that all agents share in sums with protocol "ckks", as `fedrl certs
            encryption-key` makes it; None for other protocols.
        may_leave: What may leave this site.
    """

    coordinator: str
    certificates: str
    experiment: str
    folder: str = "agent"
    environment: Table | str | None = None
    settings: Table = field(default_factory=dict)
    seed: Whole | None = None
    proxy: str | None = None
    give_up_s: NonNegative | None = None
    encryption_key: str | None = None
    may_leave: MayLeave = field(default_factory=MayLeave)

    def __post_init__(self) -> None:
        check_ranges(ranges_of(SiteConfig), vars(self))
        _check_address("coordinator", self.coordinator, "fed.example.org:7500")
        if self.proxy is not None:
            scheme, _, address = self.proxy.rpartition("://")
            _check_address("proxy", address if scheme == "http" else "", "http://proxy.example.org:3128", self.proxy)


class Site(NamedTuple):
    """The objects of a site.

    Attributes:
        config: The content of its file, with absolute paths.
        federation: The federation of its experiment.
        setting_of: `number -> parameters of the environment` of the agent with this number.
        options: Options of the executor.
        bids: Reports that leave in a bid before each update, under an upload budget; None for no bids.
        encryption_key: The key of encrypted sums; None for other protocols.
    """

    config: SiteConfig
    federation: Federation
    setting_of: Callable[[int], PyTree]
    options: dict[str, Any]
    bids: tuple[str, ...] | None = None
    encryption_key: EncryptionKey | None = None


def load_site(path: Path) -> SiteConfig:
    """Read and check a site.toml.

    Args:
        path: The file.

    Raises:
        ConfigError: It does not exist or is not TOML, a key is unknown or missing, or a value is wrong.
    """
    found = parse_site(toml_of(path))
    paths: dict[str, Any] = {
        name: str(path.parent / getattr(found, name))
        for name in ("certificates", "experiment", "folder", "encryption_key")
        if getattr(found, name) is not None
    }
    search_beside(path.parent)
    return replace(found, **paths)


def parse_site(data: Mapping[str, Any]) -> SiteConfig:
    """Check the keys and types of a dictionary, and return it as a `SiteConfig`.

    Raises:
        ConfigError: A key is unknown or missing, or a value is of the wrong type or out of range.

    >>> parse_site({"coordinator": "a:1", "certificates": "c", "experiment": "e.toml", "sed": 1})
    Traceback (most recent call last):
    fedrl.core.errors.ConfigError: sed is 1, but it is not a key of a site. Did you mean 'seed'? Allowed: ...
    """
    known = {entry.name: entry for entry in dataclasses.fields(SiteConfig)}
    types = typing.get_type_hints(SiteConfig)
    values = {}
    for key, value in data.items():
        if key not in known:
            shown = "" if isinstance(value, Mapping) else f" is {value!r}, but it"
            raise ConfigError(f"{key}{shown} is not a key of a site. {_meant(key, known)}")
        values[key] = coerce(value, types[key], key)
    for name, entry in known.items():
        if name not in values and entry.default is entry.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{name} is missing. Every site needs it.")
    for name, setting in values.get("settings", {}).items():
        if isinstance(setting, Mapping | list | tuple):
            raise ConfigError(f"settings.{name} is {setting!r}. A site has one value of each setting. Give a number.")
    return SiteConfig(**values)


def _meant(key: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown key: one of [may_leave], or the nearest one."""
    inside = [each.name for each in dataclasses.fields(MayLeave)]
    found = difflib.get_close_matches(key, inside, n=1, cutoff=0.8)
    return f"It belongs into the section [may_leave], as {found[0]!r}." if found else nearest(key, known)


def _check_address(key: str, address: str, example: str, given: str = "") -> None:
    try:
        split(address)
    except ConfigError:
        raise ConfigError(
            f"{key} is {(given or address)!r}, which is no address. Write, for example, {example!r}."
        ) from None


def build_site(config: SiteConfig) -> Site:
    """Build what a site.toml describes, and check that nothing leaves which may not.

    Raises:
        ConfigError: The experiment or the environment is wrong, has no single server, or would let out what the site
            does not allow; or the key of encrypted sums is missing, not needed, damaged, or may be read by others.
        UnsoundError: The parts of the experiment can't be combined.
    """
    data = tables_of(Path(config.experiment))
    federation, agents = data.get("federation"), agents_in(fleet_settings(data.get("fleet", {})))
    if not isinstance(federation, dict):
        raise ConfigError(f"{config.experiment} has no section [federation]. Copy the experiment of the coordinator.")
    if agents is not None:
        federation.setdefault("agents", agents)
    if federation.get("clock") is None:
        federation["clock"] = {}  # time is real, and a schedule may need time
    for key in ("topology", "hierarchy"):
        if key in federation:
            raise ConfigError(
                f"{config.experiment} has federation.{key}, and an agent on a network has one server. Leave it out."
            )
    if config.environment is not None or config.settings:
        data["fleet"] = dict(config.settings)
    if config.environment is not None:
        data["environment"] = config.environment
    experiment = build(load({name: value for name, value in data.items() if name not in UNUSED}))
    bids = None if experiment.upload_budget is None else experiment.upload_budget.requested
    check_federation(config.may_leave, experiment.federation, leaving_of(experiment.federation, bids))
    check_guarantee(config.may_leave, experiment.guarantee)
    check_encryption_key(experiment.federation, config.encryption_key is not None)
    encryption_key = None if config.encryption_key is None else EncryptionKey.read(Path(config.encryption_key))
    fleet, count = experiment.fleet, experiment.config.federation.agents

    def setting_of(number: int) -> PyTree:
        if number >= count:
            raise LookupError(f"the experiment has {count} agents")
        return jax.tree.map(lambda leaf: leaf[number], fleet)

    on_host = isinstance(experiment.environment, HostEnvironment)
    options = {"restarts": experiment.config.restarts} if on_host else {}
    return Site(config, experiment.federation, setting_of, options, bids, encryption_key)
