"""Actions to columns of batch data, and back.

Both sides go through the actions in the same order and keep the same *cells*: the last values of
each market and each account, from which the next ones are told as differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, ClassVar, Final, NamedTuple

import msgspec

from protocol.actions import Action, MassQuote
from protocol.batch_data_columns import bad, unzigzag, zigzag
from protocol.batch_data_kinds import (
    ACCOUNT_CELLS,
    KIND_OF_TAG,
    KINDS,
    MARKET_CELLS,
    OF_ACCOUNT,
    PLAIN,
    PRICES,
    QUOTE_PRICE,
    QUOTE_TAG,
    RAW_TAG,
    SIZES,
    VALUE_COLUMNS,
    Kind,
)
from protocol.codec import Decoder, encode

_astuple = msgspec.structs.astuple

_FIXED_OF: Final[dict[int, Callable[[tuple[Any, ...]], Any]]] = {
    tag: itemgetter(*kind.fixed) if kind.fixed else len for tag, kind in KIND_OF_TAG.items()
}
"""The fixed fields of an action, as a key; of a kind without any, something constant."""

MAX_TEMPLATES: Final = 4096
MAX_TEMPLATE_BYTES: Final = 72
"""Most templates, so that no dictionary grows with what clients think up; most bytes of one."""

_decode_templates: Decoder[list[list[int]]] = Decoder(list[list[int]])


class Cells:
    """The cells of all markets, or of all accounts: a list of integers each, 0 at first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._cells: dict[int, list[int]] = {}

    def of(self, number: int) -> list[int]:
        """The cells of a market or account."""
        cells = self._cells.get(number)
        if cells is None:
            cells = self._cells[number] = [0] * self._size
        return cells


class Written(NamedTuple):
    """A template on the side that packs: its number, and for each field that it does not hold the
    position, what takes the value, the scope, the market's cells, and the cell."""

    number: int
    fields: list[tuple[int, Callable[[int], None], int, list[int], int]]
    market: list[int]


class ActionPacker:
    """Takes actions in their order; the result is `templates`, the columns and what it adds to
    `raw`. The first template is that of raw actions."""

    COLUMNS: ClassVar = 2 + VALUE_COLUMNS

    def __init__(self, raw: list[bytes]) -> None:
        self.templates: list[list[int]] = [[RAW_TAG]]
        self.numbers: list[int] = []
        self.quote_counts: list[int] = []
        self.values: list[list[int]] = [[] for _ in range(VALUE_COLUMNS)]
        self._raw = raw
        self._written: dict[tuple[Any, ...], Written] = {}
        self._markets = Cells(MARKET_CELLS)
        self._accounts = Cells(ACCOUNT_CELLS)

    def columns(self) -> list[list[int]]:
        """All columns, in the order in which `ActionUnpacker` takes them."""
        return [self.numbers, self.quote_counts, *self.values]

    def add(self, account: int, actions: Sequence[Action]) -> None:
        """The actions of an account's batch."""
        mine = self._accounts.of(account)
        written = self._written
        add_number = self.numbers.append
        for action in actions:
            kind = KINDS.get(type(action))
            if kind is None:
                self._add_raw(action)
                continue
            fields = _astuple(action)
            tag = kind.tag
            mask = 0
            for bit, position in kind.optional:
                if fields[position]:
                    mask |= bit
            key = (tag, mask, _FIXED_OF[tag](fields))
            template = written.get(key)
            if template is None:
                if len(self.templates) >= MAX_TEMPLATES:
                    self._add_raw(action)
                    continue
                template = written[key] = self._new_template(kind, mask, fields)
            if tag == QUOTE_TAG:
                self._add_quotes(template, action)
                continue
            for position, append, scope, cells, cell in template.fields:
                value = fields[position]
                if scope == PLAIN:
                    if value < 0:
                        self._add_raw(action)
                        break
                    append(value)
                    continue
                if scope == OF_ACCOUNT:
                    cells = mine
                delta = value - cells[cell]
                cells[cell] = value
                append(delta << 1 if delta >= 0 else ~(delta << 1))
            else:
                add_number(template.number)

    def _new_template(self, kind: Kind, mask: int, fields: tuple[Any, ...]) -> Written:
        fixed = [fields[position] for position in kind.fixed]
        self.templates.append([kind.tag, mask, *fixed])
        market = self._markets.of(kind.market(fixed))
        return Written(
            len(self.templates) - 1,
            [
                (field.position, self.values[field.column].append, field.scope, market, field.cell)
                for field in kind.present(mask)
            ],
            market,
        )

    def _add_raw(self, action: Action) -> None:
        """An action as it is encoded."""
        self.numbers.append(0)
        self._raw.append(encode(action))

    def _add_quotes(self, template: Written, action: Action) -> None:
        """Both ladders of a mass quote: prices told from the one before, the first bid from the
        market's last first quote, the first ask from the first bid."""
        if not isinstance(action, MassQuote) or any(
            lots < 0 for side in (action.bids, action.asks) for _, lots in side
        ):
            self._add_raw(action)
            return
        self.numbers.append(template.number)
        prices, sizes = self.values[PRICES], self.values[SIZES]
        first = template.market[QUOTE_PRICE]
        for side in (action.bids, action.asks):
            self.quote_counts.append(len(side))
            last = first
            for at, (price, lots) in enumerate(side):
                prices.append(zigzag(price - last))
                sizes.append(lots)
                last = price
                if not at:
                    first = price
        template.market[QUOTE_PRICE] = first


class Read(NamedTuple):
    """A template on the side that unpacks: the action as a list with its tag, the rest zeros; and
    for each field that it does not hold the place, where the value comes from, and its cell."""

    action: list[Any]
    fields: list[tuple[int, Callable[[], int], int, list[int], int]]
    market: list[int]


class ActionUnpacker:
    """Gives the actions back in their order, as lists that encode as the actions do.

    `templates`: those of the packer, encoded; raises `Rejected` where they are none.
    Values are as wide as they are found; who encodes them finds what is too wide. Where a column
    ends too early, the methods raise `StopIteration`.
    """

    def __init__(
        self,
        templates: bytes,
        columns: Sequence[Iterator[int]],
        raw: Iterator[bytes],
    ) -> None:
        if len(templates) > MAX_TEMPLATES * MAX_TEMPLATE_BYTES:
            raise bad(f"the batch data has more than {MAX_TEMPLATES} templates")
        self._number, self._quote_count, *self._values = [one.__next__ for one in columns]
        self._raw = raw.__next__
        self._markets = Cells(MARKET_CELLS)
        self._accounts = Cells(ACCOUNT_CELLS)
        self._templates = [self._read(template) for template in _decode_templates(templates)]

    def take(self, account: int, count: int) -> list[Any]:
        """The next `count` actions, which are the account's."""
        mine = self._accounts.of(account)
        templates, number = self._templates, self._number
        actions: list[Any] = []
        for _ in range(count):
            template = templates[number()]
            fields = template.action.copy()
            for place, take, scope, cells, cell in template.fields:
                value = take()
                if scope != PLAIN:
                    if scope == OF_ACCOUNT:
                        cells = mine
                    value = cells[cell] + (~(value >> 1) if value & 1 else value >> 1)
                    cells[cell] = value
                fields[place] = value
            tag = fields[0]
            if tag == QUOTE_TAG:
                fields[2], fields[3] = self._quotes(template.market)
            elif tag == RAW_TAG:
                actions.append(msgspec.Raw(self._raw()))
                continue
            actions.append(fields)
        return actions

    def _read(self, template: list[int]) -> Read:
        if template == [RAW_TAG]:
            return Read([RAW_TAG], [], [])
        kind = KIND_OF_TAG.get(template[0]) if len(template) > 1 else None
        if kind is None or len(template) != 2 + len(kind.fixed):
            raise bad("the batch data has a template of no kind of action")
        mask, fixed = template[1], template[2:]
        if not 0 <= mask < 1 << len(kind.optional):
            raise bad("the batch data has a template of fields that are not optional")
        action: list[Any] = [kind.tag] + [0] * kind.size
        for position, value in zip(kind.fixed, fixed, strict=True):
            action[1 + position] = value
        market = self._markets.of(kind.market(fixed))
        return Read(
            action,
            [
                (1 + field.position, self._values[field.column], field.scope, market, field.cell)
                for field in kind.present(mask)
            ],
            market,
        )

    def _quotes(self, market: list[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        price_of, size_of = self._values[PRICES], self._values[SIZES]
        first = market[QUOTE_PRICE]
        sides: list[list[tuple[int, int]]] = []
        for _ in range(2):
            side: list[tuple[int, int]] = []
            last = first
            for at in range(self._quote_count()):
                last += unzigzag(price_of())
                side.append((last, size_of()))
                if not at:
                    first = last
            sides.append(side)
        market[QUOTE_PRICE] = first
        return sides[0], sides[1]
