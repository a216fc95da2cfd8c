import itertools
import secrets
from fractions import Fraction

import pytest

from fedrl.core.errors import SecureSumError, TooFewAgentsError
from fedrl.secure import shares
from fedrl.secure.shares import PRIME, commitment, joined, split


def independent_join(points: dict[int, int]) -> int:
    """The polynomial at zero by Newton's divided differences over the rationals, reduced at the end."""
    xs = sorted(points)
    column, value, product = [Fraction(points[x]) for x in xs], Fraction(0), Fraction(1)
    for order in range(len(xs)):
        value += column[0] * product
        product *= -xs[order]
        column = [(b - a) / (xs[i + order + 1] - xs[i]) for i, (a, b) in enumerate(itertools.pairwise(column))]
    return value.numerator * pow(value.denominator, -1, PRIME) % PRIME


def independent_split(secret: int, coefficients: list[int], point: int) -> int:
    return (secret + sum(each * point**power for power, each in enumerate(coefficients, start=1))) % PRIME


def test_the_modulus_is_a_prime():
    """Miller and Rabin, for 40 bases."""
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 42):
        value = pow(base, odd, PRIME)
        assert value in (1, PRIME - 1) or any((value := value * value % PRIME) == PRIME - 1 for _ in range(twos - 1)), (
            base
        )


@pytest.mark.parametrize(("threshold", "count"), [(1, 1), (2, 3), (3, 6), (6, 10), (24, 41)])
def test_any_threshold_of_shares_gives_the_secret_back_here_and_by_another_implementation(threshold, count):
    secret = secrets.token_bytes(31).rjust(32, b"\0")
    parts = split(secret, threshold, count)
    chosen = list(itertools.islice(itertools.combinations(range(1, count + 1), threshold), 30))
    for points in (*chosen, tuple(range(count - threshold + 1, count + 1))):
        found = {point: parts[point - 1] for point in points}
        assert joined(found, threshold) == secret
        assert independent_join({x: int.from_bytes(y, "big") for x, y in found.items()}) == int.from_bytes(
            secret, "big"
        )


def test_shares_are_those_of_another_implementation(monkeypatch):
    secret, *coefficients = [secrets.randbelow(PRIME) for _ in range(5)]
    drawn = iter(coefficients)
    monkeypatch.setattr(shares.secrets, "randbelow", lambda below: next(drawn))
    expected = [independent_split(secret, coefficients, point) for point in range(1, 8)]
    assert [int.from_bytes(each, "big") for each in split(secret.to_bytes(32, "big"), 5, 7)] == expected


def test_fewer_shares_than_the_threshold_are_not_put_together():
    parts = split(bytes(32), 3, 5)
    with pytest.raises(TooFewAgentsError, match="2 shares of a secret came, and 3 are needed"):
        joined({1: parts[0], 2: parts[1]}, 3)


def test_with_one_share_fewer_every_secret_is_possible():
    """For two shares of a sharing with the threshold three, each secret has exactly one third share that gives it."""
    parts = split(b"\0" * 31 + b"\7", 3, 5)
    two = {1: int.from_bytes(parts[0], "big"), 4: int.from_bytes(parts[3], "big")}
    for secret in (0, 7, 2**200 + 1):
        third = sum(
            value * numerator * pow(denominator, -1, PRIME)
            for value, numerator, denominator in (
                (secret, (5 - 1) * (5 - 4), (0 - 1) * (0 - 4)),
                (two[1], 5 * (5 - 4), 1 * (1 - 4)),
                (two[4], 5 * (5 - 1), 4 * (4 - 1)),
            )
        )
        found = {**{x: y.to_bytes(32, "big") for x, y in two.items()}, 5: (third % PRIME).to_bytes(32, "big")}
        assert int.from_bytes(joined(found, 3), "big") == secret


@pytest.mark.parametrize("wrong", [b"\xff" * 32, b"\1" * 31])
def test_a_share_outside_of_the_field_is_rejected(wrong):
    with pytest.raises(SecureSumError, match="no number below"):
        joined({1: wrong, 2: bytes(32)}, 2)


@pytest.mark.parametrize(("secret", "threshold", "count"), [(b"\xff" * 32, 2, 3), (bytes(31), 2, 3), (bytes(32), 4, 3)])
def test_a_secret_that_cannot_be_split_is_rejected(secret, threshold, count):
    with pytest.raises(ValueError, match="can't be split"):
        split(secret, threshold, count)


def test_a_wrong_share_changes_the_secret_and_the_commitment_shows_it():
    secret = secrets.token_bytes(31).rjust(32, b"\0")
    parts = split(secret, 2, 3)
    wrong = joined({1: parts[0], 2: parts[2]}, 2)
    assert wrong != secret
    assert (
        commitment(wrong, b"seed")
        != commitment(secret, b"seed")
        == commitment(joined({1: parts[0], 3: parts[2]}, 2), b"seed")
    )
