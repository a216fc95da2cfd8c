"""A sum that hides its terms, as far as what is said of it goes: it adds up as the exact one does."""

from fedrl.core.component import component
from fedrl.core.summation import Summation, exact_sum


@component("test double")
def veil() -> Summation:
    plain = exact_sum()
    return Summation(plain.quantize, plain.total, plain.limit, opens="sum", statistics=True)
