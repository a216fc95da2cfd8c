"""The type checker that the tests put on every function of fedrl: shapes by jaxtyping, the rest by beartype."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as everywhere in Python
