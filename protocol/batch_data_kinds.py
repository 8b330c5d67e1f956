"""How each kind of action is cut into columns of batch data.

A *template* is what many actions have in common: their kind, the fields that take few values, and
which of the optional fields are there. An action is the number of its template and the values of
its other fields, most of them as differences to the last one of the same market or account.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from protocol.actions import (
    Action,
    Cancel,
    CancelAll,
    CancelClient,
    MarketOrder,
    MassQuote,
    Modify,
    OraclePrice,
    Order,
    Reduce,
    ScheduleCancel,
    SetLeverage,
    SetMode,
    SetProtection,
    TriggerOrder,
    Twap,
)

SIZES: Final = 0
PRICES: Final = 1
PLACED_IDS: Final = 2
NAMED_IDS: Final = 3
TIMES: Final = 4
REPORTS: Final = 5
VALUE_COLUMNS: Final = 6
"""Columns of values: sizes as they are; and as differences prices, client ids that orders get, ids
of orders that actions name, times, and prices that oracles report."""

PLAIN: Final = 0
OF_MARKET: Final = 1
OF_ACCOUNT: Final = 2
"""Where the value stands that a difference is told from: nowhere, as the value is plain; in a cell
of the action's market; in a cell of its account."""

ORDER_PRICE: Final = 0
REPORTED_PRICE: Final = 1
TRIGGER_PRICE: Final = 2
QUOTE_PRICE: Final = 3
MARKET_CELLS: Final = 4

PLACED_ID: Final = 0
CANCELLED_ID: Final = 1
ORDER_ID: Final = 2
EXPIRY: Final = 3
SWITCH_TIME: Final = 4
ACCOUNT_CELLS: Final = 5

RAW_TAG: Final = 0
"""Tag of the template of actions that are kept as they are encoded."""


class Field(NamedTuple):
    """A field that varies: its position, its column, and the cell that it is told from."""

    position: int
    column: int
    scope: int
    cell: int


class Kind(NamedTuple):
    """A kind of action in columns; positions count from 0, the tag not among them.

    `fixed`: fields of the template. `varying`: the others, plain ones first. `optional`: bits
    and positions of varying fields that are left out where they are 0. `sided`: the first fixed
    fields are market and side.
    """

    tag: int
    size: int
    fixed: tuple[int, ...]
    varying: tuple[Field, ...] = ()
    optional: tuple[tuple[int, int], ...] = ()
    sided: bool = False

    def market(self, fixed: Sequence[int]) -> int:
        """The number of the market's cells for these fixed fields: each side has its own where the
        kind has one, because prices of one side are alike."""
        if self.sided:
            return fixed[0] << 1 | fixed[1] & 1
        return fixed[0] << 1 if fixed else 0

    def present(self, mask: int) -> list[Field]:
        """The varying fields but for the optional ones whose bit is not set in `mask`."""
        absent = [position for bit, position in self.optional if not mask & bit]
        return [field for field in self.varying if field.position not in absent]


def _size(position: int) -> Field:
    return Field(position, SIZES, PLAIN, 0)


def _price(position: int, cell: int = ORDER_PRICE) -> Field:
    return Field(position, PRICES, OF_MARKET, cell)


def _id(position: int, cell: int) -> Field:
    return Field(position, PLACED_IDS if cell == PLACED_ID else NAMED_IDS, OF_ACCOUNT, cell)


def _time(position: int, cell: int) -> Field:
    return Field(position, TIMES, OF_ACCOUNT, cell)


KINDS: Final[dict[type[Action], Kind]] = {
    Order: Kind(
        1, 8, (0, 1, 4, 6),
        (_size(3), _price(2), _id(5, PLACED_ID), _time(7, EXPIRY)), ((1, 5), (2, 7)), sided=True,
    ),
    MarketOrder: Kind(2, 6, (0, 1, 3, 5), (_size(2), _id(4, PLACED_ID)), ((1, 4),)),
    Cancel: Kind(3, 2, (0,), (_id(1, ORDER_ID),)),
    CancelClient: Kind(4, 2, (0,), (_id(1, CANCELLED_ID),)),
    Reduce: Kind(5, 3, (0,), (_size(2), _id(1, ORDER_ID))),
    OraclePrice: Kind(
        9, 3, (0,), (_size(2), Field(1, REPORTS, OF_MARKET, REPORTED_PRICE)), ((1, 2),)
    ),
    Modify: Kind(10, 4, (0,), (_size(3), _price(2), _id(1, ORDER_ID))),
    CancelAll: Kind(11, 1, (0,)),
    MassQuote: Kind(12, 3, (0,)),
    TriggerOrder: Kind(
        13, 10, (0, 1, 3, 6, 8),
        (
            _size(2), _price(4, TRIGGER_PRICE), _price(5, TRIGGER_PRICE), _id(7, PLACED_ID),
            _time(9, EXPIRY),
        ),
        ((1, 5), (2, 7), (4, 9)), sided=True,
    ),
    Twap: Kind(16, 6, (0, 1, 3, 4), (_size(2), _id(5, PLACED_ID)), ((1, 5),)),
    ScheduleCancel: Kind(17, 1, (), (_time(0, SWITCH_TIME),), ((1, 0),)),
    SetLeverage: Kind(18, 2, (0, 1)),
    SetProtection: Kind(19, 3, (0, 1, 2)),
    SetMode: Kind(22, 2, (0, 1)),
}  # fmt: skip
"""Kinds in columns. Of a mass quote, the quotes follow its template; kinds that are not here, and
actions whose size is negative, are kept as they are encoded."""

KIND_OF_TAG: Final[dict[int, Kind]] = {kind.tag: kind for kind in KINDS.values()}
QUOTE_TAG: Final = KINDS[MassQuote].tag
