"""Compare the federations of two processes before the first round, by digests.

    coordinator   wire_digest(federation, setting) --as_json--> wire --from_json--+
    site          wire_digest(federation, setting) -----------------------------> differences -> sentences

Messages contain no names and no types (`fedrl.wire.codec`), so two ends with different federations could misread each
other's bytes without noticing. A digest has a part for everything on which a message or its meaning depends:

    stages, down stages        the stages of updates and of broadcasts, in order
    rule, server optimizer     how the server merges and applies updates
    summation                  how updates are added
    parts                      parts of the parameters, with their rules, server optimisers and periods
    payload, local steps       what agents send, the largest number of local steps, and the samples of a local step,
                               from which a server computes weights that it does not trust agents with
    reports                    the names of requested reports, in any order
    broadcast, update          names, types and shapes of the arrays that are sent; of down stages also the difference
    codec                      how they are encoded as bytes
    random numbers             the generator, by which both ends must draw alike, for example in `random_k`

Each site chooses the environment, the learner and its optimiser, so these are not part of the digest, apart from the
shapes and the number of samples that follow from them. Components count by the call that built them, and components of
a user also by the code of their constructor; functions count by what they do (`fedrl.core.content`). Versions of
libraries are sent beside the digest, since ends with different versions may still be compatible.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import optax

from fedrl.core.canonical import made_by_library
from fedrl.core.component import call_of, written
from fedrl.core.content import content
from fedrl.core.errors import WireError
from fedrl.core.types import PyTree
from fedrl.core.versions import versions
from fedrl.federation.federation import Federation
from fedrl.federation.messages import crossing
from fedrl.wire import codec

FORMAT = 1
"""The format of digests. Raise it when a new version of fedrl computes other digests of the same federations."""
PARTS = (
    *("stages", "down stages", "rule", "parts", "server optimizer", "summation", "payload", "local steps", "reports"),
    *("broadcast", "update", "codec", "random numbers"),
)
PACKAGES = ("fedrl", "jax", "jaxlib", "numpy", "optax")
VERSIONS = (*PACKAGES, "python")
LONGEST = 300
"""The largest length of an entry's text; its digest covers the whole text."""
MOST = 10_000
"""The largest number of entries of a part."""
SHOWN = 3
DIGEST = re.compile("[0-9a-f]{64}")
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Entry(NamedTuple):
    """One entry of a part, such as one stage.

    Attributes:
        text: Its text for messages.
        digest: The SHA-256 of its content, 64 hexadecimal digits.
    """

    text: str
    digest: str


@dataclass(frozen=True)
class WireDigest:
    """The description of a federation that one end sends. Two ends are compatible if their `digest` is equal.

    Attributes:
        parts: The entries of each of `PARTS`, keyed by name.
        versions: The version of each of `VERSIONS`, keyed by name; not part of the digest.
    """

    parts: Mapping[str, tuple[Entry, ...]]
    versions: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Return the SHA-256 over all parts, 64 hexadecimal digits."""
        return _sha256([f"format {FORMAT}", *(f"{name}:{self.digest_of(name)}" for name in PARTS)])

    def digest_of(self, part: str) -> str:
        """Return the SHA-256 over the entries of one part, in order."""
        return _sha256([entry.digest for entry in self.parts[part]])


class Difference(NamedTuple):
    """A difference between two ends.

    Attributes:
        part: One of `PARTS` or of `VERSIONS`.
        sentence: The values here and there, and whether the difference is decisive.
        decisive: Whether the difference makes the two ends incompatible.
    """

    part: str
    sentence: str
    decisive: bool


def wire_digest(federation: Federation, setting: PyTree, bids: tuple[str, ...] | None = None) -> WireDigest:
    """Compute the digest of this process's federation.

    Args:
        federation: The federation.
        setting: The environment parameters of one agent, arrays or `jax.ShapeDtypeStruct`; only their shapes count.
            Those of a fleet lose their leading axis.
        bids: Reports that agents say in a bid before their update, under an upload budget; None for no bids.

    Raises:
        ConfigError: The federation contains an object whose content cannot be compared by another process, such as an
            open file that a stage captures; the message names it.

    >>> from fedrl.aggregators import mean
    >>> from fedrl.federation.federate import federate
    >>> from fedrl.environments import cartpole
    >>> from fedrl.learners import adam, ppo
    >>> from fedrl.stages import top_k
    >>> def end(share, rate):
    ...     return wire_digest(federate(ppo(cartpole(), optimizer=adam(rate)), mean(), top_k(share)), cartpole().params)
    >>> end(0.1, 0.001).digest == end(0.1, 0.002).digest
    True
    >>> for each in differences(end(0.1, 0.001), end(0.2, 0.001)):
    ...     print(each.part, each.decisive, "top_k(0.2)" in each.sentence)
    stages True True
    update True False
    """
    met = jax.eval_shape(lambda key, setting: crossing(federation, key, setting), jax.random.key(0), setting)
    message, difference = _difference(federation, met.sent.params)
    # With parts, `federation.aggregator` joins all rules and has no constructor call; the argument of `federate` has.
    call = call_of(federation)
    samples = int(federation.learner.samples)
    rule = federation.aggregator if call is None else call.arguments["aggregator"]
    parts = {
        "stages": _components(federation.stages, "A stage"),
        "down stages": _components(federation.down_stages, "A down stage"),
        "rule": _components([rule], "The aggregator"),
        "parts": _components(federation.parts, "A part"),
        "server optimizer": _components([federation.server_optimizer], "The server optimiser"),
        "summation": _components([federation.summation], "The summation"),
        "payload": _components([federation.payload], "The payload"),
        "local steps": (
            *_components([federation.local_steps], "The number of local steps"),
            _entry(f"{samples} samples in each", samples, "The number of samples"),
        ),
        "reports": _components(sorted(federation.reports), "A report"),
        "broadcast": (*_arrays(met.sent, "The broadcast"), *difference),
        "update": (*_arrays(met.update, "The update"), *_bids(bids)),
        "codec": _formats((met.sent, met.update, message)),
        "random numbers": _random_numbers(),
    }
    return WireDigest(parts, versions(PACKAGES))


def differences(mine: WireDigest, theirs: WireDigest) -> list[Difference]:
    """Return the differences of two ends: parts first, which are decisive, then versions, which are not.

    >>> alike = {part: () for part in PARTS}
    >>> one = WireDigest(alike | {"payload": (Entry("'delta'", "0" * 64),)}, dict.fromkeys(VERSIONS, "1.0"))
    >>> other = WireDigest(alike | {"payload": (Entry("'gradient'", "1" * 64),)}, one.versions | {"jax": "1.1"})
    >>> for each in differences(one, other):
    ...     print(each.sentence)
    The payload is 'delta' here and 'gradient' there, which is decisive: the two ends do not speak the same wire.
    The version of jax is 1.0 here and 1.1 there, which is not decisive.
    """
    versions = [name for name in VERSIONS if mine.versions[name] != theirs.versions[name]]
    parts = [name for name in PARTS if mine.digest_of(name) != theirs.digest_of(name)]
    return [Difference(name, _sentence(name, mine, theirs), True) for name in parts] + [
        Difference(
            name,
            f"The version of {name} is {mine.versions[name]} here and {theirs.versions[name]} there, which is not "
            "decisive.",
            False,
        )
        for name in versions
    ]


def as_json(digest: WireDigest) -> dict[str, Any]:
    """Return a digest as lists, dictionaries, text and integers, for `json.dumps`."""
    parts = {name: [list(entry) for entry in digest.parts[name]] for name in PARTS}
    return {"format": FORMAT, "parts": parts, "versions": dict(digest.versions)}


def from_json(data: object) -> WireDigest:
    """Read the digest of the other end from the result of `json.loads`; nothing in it is executed.

    Raises:
        WireError: An entry is missing, of another type, too long or not printable, or there are too many.

    >>> from_json({"format": 1})
    Traceback (most recent call last):
    fedrl.core.errors.WireError: The digest of the other end has the entries format, and should have format, parts, ...
    """
    whole = _table(data, ("format", "parts", "versions"), "The digest of the other end")
    if type(whole["format"]) is not int or whole["format"] != FORMAT:
        raise _refusal("The format of the digest", whole["format"], f"{FORMAT}, as here")
    parts = _table(whole["parts"], PARTS, "The parts of the digest")
    versions = _table(whole["versions"], VERSIONS, "The versions in the digest")
    return WireDigest(
        {name: _entries(parts[name], name) for name in PARTS},
        {name: _text(versions[name], f"The version of {name}") for name in VERSIONS},
    )


def _components(values: Sequence[object], what: str) -> tuple[Entry, ...]:
    return tuple(_entry(_shown(value), value, what) for value in values)


def _arrays(message: PyTree, what: str) -> tuple[Entry, ...]:
    """Return the entries of a message's arrays, and of its tree structure."""
    found, structure = jax.tree.flatten_with_path(message)
    texts = [f"{jax.tree_util.keystr(path)} {x.dtype.name}{tuple(x.shape)}" for path, x in found]
    return (*(_entry(text, text, what) for text in texts), _entry(str(structure), structure, what))


def _bids(names: tuple[str, ...] | None) -> tuple[Entry, ...]:
    """Return the entry of bids; none without bids, so that such federations keep their digest."""
    if names is None:
        return ()
    return (_entry(f"sent after a bid with {', '.join(names) or 'nothing'}", list(names), "The bid"),)


def _difference(federation: Federation, params: PyTree) -> tuple[PyTree, tuple[Entry, ...]]:
    """Return the shapes of the difference that down stages send, and its entries; nothing without down stages."""
    down = federation.downlink
    if down is None:
        return (), ()
    message = jax.eval_shape(lambda params: down.message(down.init(params)), params)
    return message, _arrays(message, "The difference")


def _formats(messages: PyTree) -> tuple[Entry, ...]:
    """Return the entries of the codec's format, and of the formats of nodes that are not arrays."""
    kinds = sorted(set(_formed(messages)), key=lambda kind: (kind.__qualname__, kind.__module__))
    return (
        _entry(f"format {codec.FORMAT}", codec.FORMAT, "The format of the codec"),
        *(_entry(f"a format of {kind.__qualname__}", codec.FORMATS[kind], f"{kind.__qualname__}") for kind in kinds),
    )


def _formed(tree: PyTree) -> list[type]:
    """Return the types of all nodes with their own format, including nodes inside other nodes."""
    found = []
    for node in jax.tree.leaves(tree, is_leaf=lambda x: x is not tree and type(x) in codec.FORMATS):
        if type(node) in codec.FORMATS:
            found += [type(node), *_formed(node)]
    return found


def _random_numbers() -> tuple[Entry, ...]:
    settings: Any = jax.config
    text = f"{settings.jax_default_prng_impl}, partitionable={bool(settings.jax_threefry_partitionable)}"
    return (_entry(text, text, "The generator of random numbers"),)


def _entry(text: str, value: object, what: str) -> Entry:
    return Entry(_fitted(text), content(value, what, _as_built))


def _as_built(value: object) -> object:
    """Return by what a component is digested: its constructor and every argument."""
    call = call_of(value)
    if call is None:
        return None
    build: Any = call.component.build
    # Unwrap what `component` itself and type checks have put around the user's constructor.
    while made_by_library(build) and hasattr(build, "__wrapped__"):
        build = build.__wrapped__
    return call.component.kind, call.component.name, None if made_by_library(build) else build, call.arguments


def _shown(value: object) -> str:
    if call_of(value) is None and isinstance(value, optax.GradientTransformation):
        maker = getattr(value.update, "__qualname__", "an unknown constructor").partition(".<locals>")[0]
        return f"<{type(value).__name__} made by {maker}>"
    return written(value)


def _fitted(text: str) -> str:
    """Return printable text on one line, without memory addresses and at most `LONGEST` characters long."""
    # Addresses differ between processes, and the text is shown in terminals of the other end.
    line = " ".join(ADDRESS.sub("", text).split())
    line = "".join(x if x.isprintable() else "?" for x in line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def _sha256(pieces: Sequence[str]) -> str:
    """Return the SHA-256 of pieces without line breaks."""
    return hashlib.sha256("\n".join(pieces).encode()).hexdigest()


def _sentence(part: str, mine: WireDigest, theirs: WireDigest) -> str:
    """Return a sentence about how a part differs, without the entries at both ends of the list that are equal."""
    here, there = mine.parts[part], theirs.parts[part]
    begin = _alike(here, there)
    here, there = here[begin:], there[begin:]
    end = _alike(here[::-1], there[::-1])
    here, there = here[: len(here) - end], there[: len(there) - end]
    verb = "are" if part.endswith("s") else "is"
    found = f"The {part} {verb} {_listed(here)} here and {_listed(there)} there"
    if [entry.text for entry in here] == [entry.text for entry in there]:
        found += ", written alike, but they differ in what is not shown, such as what a function does or captures"
        if _minor(mine) != _minor(theirs):
            found += f" (functions of Python {_minor(mine)} and {_minor(theirs)} can't be compared)"
    return f"{found}, which is decisive: the two ends do not speak the same wire."


def _alike(here: Sequence[Entry], there: Sequence[Entry]) -> int:
    """Return the length of the common beginning."""
    pairs = enumerate(zip(here, there, strict=False))
    return next((i for i, (a, b) in pairs if a.digest != b.digest), min(len(here), len(there)))


def _listed(entries: Sequence[Entry]) -> str:
    texts = [entry.text for entry in entries[:SHOWN]]
    if len(entries) > SHOWN:
        texts.append(f"{len(entries) - SHOWN} more")
    return ", ".join(texts) or "nothing"


def _minor(digest: WireDigest) -> str:
    return ".".join(digest.versions["python"].split(".")[:2])


def _table(data: object, names: Sequence[str], what: str) -> dict[str, object]:
    # The data come from another party: exact types, as a subclass could override what is read below.
    if type(data) is not dict:
        raise _refusal(what, data, "a table")
    if set(data) != set(names):
        found = ", ".join(sorted(map(_brief, data))[:MOST]) or "none"
        raise WireError(
            f"{what} has the entries {_fitted(found)}, and should have {', '.join(names)}. It was made by something "
            "else, or another version. Run the same version of fedrl at both ends."
        )
    return data


def _entries(data: object, part: str) -> tuple[Entry, ...]:
    if type(data) is not list or len(data) > MOST:
        raise _refusal(f"The part {part!r} of the digest", data, f"a list of at most {MOST} entries")
    found = []
    for pair in data:
        if type(pair) is not list or len(pair) != 2:
            raise _refusal(f"An entry of the part {part!r}", pair, "a text and a digest")
        text, digest = pair
        if type(digest) is not str or not DIGEST.fullmatch(digest):
            raise _refusal(f"A digest in the part {part!r}", digest, "64 hexadecimal digits")
        found.append(Entry(_text(text, f"A text in the part {part!r}"), digest))
    return tuple(found)


def _text(data: object, what: str) -> str:
    if type(data) is not str or len(data) > LONGEST or not data.isprintable():
        raise _refusal(what, data, f"text of at most {LONGEST} characters that can be printed")
    return data


def _brief(data: object) -> str:
    return _fitted(data) if type(data) is str else type(data).__name__


def _refusal(what: str, found: object, wanted: str) -> WireError:
    shown = str(found) if type(found) is int and abs(found) < 10**18 else f"of type {type(found).__name__}"
    return WireError(
        f"{what} is {shown}, and should be {wanted}. It was damaged, or made by something else. Run the same version "
        "of fedrl at both ends."
    )
