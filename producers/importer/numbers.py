"""Decimal text into whole millionths, exactly: no binary fraction touches a sum of money.

A product is exact in all its digits and then rounded once, half to even, to millionths.
"""

import decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.event import VALUE_E6_MAX

DIGITS_MAX = 60  # of an exact product before it is rounded
_PLAIN = r"^-?\d{1,11}(\.\d{1,6})?$"
_OPERAND = pa.decimal128(18, 6)
_EXACT = decimal.Context(prec=DIGITS_MAX, rounding=decimal.ROUND_HALF_EVEN, traps=[])
_MILLIONTH = decimal.Decimal("0.000001")

UNREADABLE, OUT_OF_RANGE = "value_unreadable", "value_out_of_range"


def product_e6(factors: list[pa.Array], bound_e6: int = VALUE_E6_MAX) -> tuple[pa.Array, list[tuple[int, str]]]:
    """The product of text columns, row by row, as int64 millionths; null where any factor is null.

    Second: (row, reason) of each row whose text is no number (`value_unreadable`) or whose product is beyond
    ±`bound_e6` (`value_out_of_range`); those rows are null.
    """
    rows = len(factors[0])
    present, plain = np.ones(rows, dtype=np.bool_), np.full(rows, len(factors) <= 2)
    for factor in factors:
        present &= pc.is_valid(factor).to_numpy(zero_copy_only=False)
        matches = pc.fill_null(pc.match_substring_regex(factor, _PLAIN), False)
        plain &= matches.to_numpy(zero_copy_only=False)
    values = np.zeros(rows, dtype=np.int64)
    valid = plain.copy()
    if plain.any():
        values[plain] = _plain_product([factor.filter(pa.array(plain)) for factor in factors], bound_e6)
    bad: list[tuple[int, str]] = []
    for row in np.flatnonzero(present & ~plain):
        result = _exact_product([factor[int(row)].as_py() for factor in factors])
        if isinstance(result, str):
            bad.append((int(row), result))
        else:
            values[row], valid[row] = result, True
    for row in np.flatnonzero(valid & ((values > bound_e6) | (values < -bound_e6))):
        bad.append((int(row), OUT_OF_RANGE))
        valid[row] = False
    return pa.array(values, mask=~valid), bad


def _plain_product(factors: list[pa.Array], bound_e6: int) -> npt.NDArray[np.int64]:
    """One or two columns of plain decimals, no nulls, through 128-bit decimals.

    Two factors below 10**11 give less than 10**22, in millionths 10**28: beyond int64, so it is clipped to a
    value that is out of range anyway.
    """
    columns = [factor.cast(_OPERAND) for factor in factors]
    if len(columns) == 1:
        return _low_words(columns[0])[0]
    exact = pc.multiply(columns[0], columns[1])  # decimal128(37, 12): all digits of both
    rounded = pc.round(exact, ndigits=6, round_mode="half_to_even").cast(pa.decimal128(37, 6), safe=False)
    low, high = _low_words(rounded)
    fits = high == (low >> 63)
    return np.where(fits, low, np.where(high < 0, -(bound_e6 + 1), bound_e6 + 1))


def _low_words(column: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The low and high 64 bits of a decimal128 column without nulls."""
    words = np.frombuffer(column.buffers()[1], dtype="<i8").reshape(-1, 2)
    words = words[column.offset : column.offset + len(column)]
    return words[:, 0], words[:, 1]


def _exact_product(factors: list[str]) -> int | str:
    """One product by arbitrary precision: more factors, more digits or exponents than the columns take."""
    product = decimal.Decimal(1)
    for text in factors:
        try:
            factor = decimal.Decimal(text.strip())
        except decimal.InvalidOperation:
            return UNREADABLE
        if not factor.is_finite() or "_" in text:
            return UNREADABLE
        if factor.adjusted() > DIGITS_MAX or factor.adjusted() < -DIGITS_MAX:
            return OUT_OF_RANGE if factor.adjusted() > 0 else 0
        product = _EXACT.multiply(product, factor)
    if product.adjusted() > 12:
        return OUT_OF_RANGE
    return int(product.quantize(_MILLIONTH, context=_EXACT).scaleb(6, context=_EXACT))
