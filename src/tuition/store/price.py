"""What calls cost: prices as people write them, and bills that are exact to the last digit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation

from tuition.data.transfer import EXACT, Bill
from tuition.errors import UserError
from tuition.teachers.protocol import Tokens

DECIMALS, LARGEST = 12, 10**9  # of one amount
MOST_TOKENS = 2**40  # a request; a server that counts more counts wrongly
MILLION = 6  # as a power of ten

Amount = Decimal | float | str
AmountPerTokens = str | Sequence[Amount]


@dataclass(frozen=True)
class Price:
    """The price of one call, and of a million tokens in and out."""

    call: Decimal = Decimal(0)
    input: Decimal = Decimal(0)
    output: Decimal = Decimal(0)

    @property
    def per_token(self) -> bool:
        return bool(self.input or self.output)

    def bill(self, calls: int, tokens: Tokens | None = None) -> Bill:
        """What paid calls cost, with the tokens that they used; None where these are not known."""
        if tokens is None:
            return Bill(EXACT.multiply(self.call, calls))
        used = EXACT.add(EXACT.multiply(self.input, tokens.input), EXACT.multiply(self.output, tokens.output))
        cost = EXACT.add(EXACT.multiply(self.call, calls), EXACT.scaleb(used, -MILLION))
        return Bill(cost, tokens.input, tokens.output, calls)


FREE = Price()


def price(per_call: Amount | None = None, per_million_tokens: AmountPerTokens | None = None) -> Price:
    """A price from amounts as people write them: 0.1 is exactly one tenth.

    Args:
        per_call: of one call.
        per_million_tokens: of a million tokens in and out, as the text "IN,OUT" or a pair.

    Raises:
        UserError: an amount is not a number, negative, or has too many digits.
    """
    call = Decimal(0) if per_call is None else amount(per_call)
    return Price(call) if per_million_tokens is None else Price(call, *amounts(per_million_tokens))


def amount(value: Amount) -> Decimal:
    """An amount of money.

    Raises:
        UserError: it is not a number, negative, or has too many digits.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = Decimal(str(value).strip())
    except (InvalidOperation, TypeError):
        raise UserError(f"a price is a number such as 0.002, not {str(value)[:80]!r}; write it so.") from None
    if not number.is_finite() or not 0 <= number < LARGEST or number != round(number, DECIMALS):
        raise UserError(
            f"a price is at least 0, less than {LARGEST:.0e} and has at most {DECIMALS} decimals, which "
            f"{str(value)[:80]!r} does not meet; write another."
        )
    return number


def amounts(value: AmountPerTokens) -> tuple[Decimal, Decimal]:
    """The prices of tokens in and out, from the text "IN,OUT" or a pair.

    Raises:
        UserError: it is neither, or an amount is none.
    """
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or len(parts) != 2:
        raise UserError(
            f"a price per million tokens is IN,OUT, not {str(value)[:80]!r}; write for example 0.15,0.60, or 0.02,0 "
            "where nothing is generated."
        )
    return amount(parts[0]), amount(parts[1])


def tokens_of(answer: object) -> Tokens | None:
    """The tokens that an answer, or an error of a teacher, tells of; None where they are not counts."""
    tokens = getattr(answer, "tokens", None)
    if not isinstance(tokens, Tokens):
        return None
    for count in (tokens.input, tokens.output):
        if type(count) is not int or not 0 <= count < MOST_TOKENS:
            return None
    return tokens


def money(cost: Decimal) -> str:
    """A sum with all its digits, and at least two decimals: 1,234.50, or 0.0004."""
    decimals = -int(EXACT.normalize(cost).as_tuple().exponent)
    return f"{cost:,.{max(2, decimals)}f}"


def tokens_per_call(bill: Bill) -> tuple[Decimal, Decimal] | None:
    """Mean tokens, read and written, of the calls billed before; None where none were counted."""
    if not bill.metered:
        return None
    return Decimal(bill.input_tokens) / bill.metered, Decimal(bill.output_tokens) / bill.metered


def estimate(charged: Price | None, calls: int, tokens: tuple[Decimal, Decimal] | None) -> Decimal | None:
    """What new calls will cost; None if that is not known. The tokens are those of a call.

    The cost of calls is exact; that of tokens is rounded to 4 digits, because it is an estimate.
    """
    if charged is None or (charged.per_token and tokens is None and calls):
        return None
    cost = charged.bill(calls).cost
    if charged.per_token and tokens is not None:
        per_call = (charged.input * tokens[0] + charged.output * tokens[1]).scaleb(-MILLION)
        cost = EXACT.add(cost, Context(prec=4).create_decimal(calls * per_call))
    return cost
