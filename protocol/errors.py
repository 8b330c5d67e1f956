"""Errors say whose fault they are.

`Rejected` is a peer's or a client's fault: handled, counted, answered with its code.
`SafetyViolation` is our own broken invariant: it stops the process with exit status 5.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Stable result codes, grouped by cause. A number never changes its meaning.

    0 is success; 1xx wire, 2xx authentication, 3xx market and request, 4xx risk, 5xx order
    state, 6xx ledger and settlement, 7xx availability.
    """

    OK = 0

    # wire
    MALFORMED = 100
    WRONG_TYPE = 101
    NON_CANONICAL = 102
    FRAME_TOO_LARGE = 103
    UNKNOWN_MESSAGE = 104
    WRONG_CHAIN = 105
    WRONG_VERSION = 106

    # authentication
    BAD_SIGNATURE = 200
    UNKNOWN_SIGNER = 201
    NOT_AUTHORISED = 202
    NONCE_USED = 203
    NONCE_EXPIRED = 204
    NONCE_TOO_NEW = 205
    SESSION_NOT_PROVEN = 206
    AGENT_EXPIRED = 207
    AGENT_REVOKED = 208
    SCHEME_UNKNOWN = 209
    ACTION_EXPIRED = 210
    TOO_MANY_AGENTS = 211
    WRONG_SHARD = 212

    # market and request
    UNKNOWN_MARKET = 300
    BAD_PRICE = 301
    BAD_SIZE = 302
    BELOW_MIN_NOTIONAL = 303
    TOO_MANY_ACTIONS = 305
    MIXED_BATCH = 306
    BAD_SLIPPAGE = 307
    STALE_ORACLE = 308
    BAD_FLAGS = 309
    BAD_EXPIRY = 310
    PRICE_BAND = 311
    MARKET_HALTED = 312
    MARKET_CANCEL_ONLY = 313
    MARKET_POST_ONLY = 314
    MARKET_REDUCE_ONLY = 315
    STALE_MARKET = 316
    MARKET_EXPIRED = 317
    BAD_TRIGGER = 318
    BAD_LINK = 319
    BAD_DURATION = 320
    BAD_QUOTES = 321
    BAD_LEVERAGE = 322
    BAD_PROTECTION = 323
    BAD_MODE = 324
    BAD_CONFIDENCE = 325

    # risk
    UNKNOWN_ACCOUNT = 400
    INSUFFICIENT_MARGIN = 401
    INSUFFICIENT_CASH = 402
    TOO_MANY_ORDERS = 403
    POSITION_LIMIT = 404
    BAD_AMOUNT = 405
    OPEN_INTEREST_LIMIT = 406
    NOTIONAL_LIMIT = 407
    LIQUIDATING = 408
    WRONG_TRANSFER = 409
    TOO_MANY_SUBACCOUNTS = 410
    LEVERAGE_TOO_HIGH = 411
    NO_POSITION = 412
    ISOLATED_ACCOUNT = 413
    TOO_MANY_POSITIONS = 414

    # order state
    UNKNOWN_ORDER = 500
    DUPLICATE_CLIENT_ID = 501
    WOULD_TAKE = 502
    NO_LIQUIDITY = 503
    NOT_REDUCING = 504
    NOT_FILLABLE = 505
    SELF_TRADE = 506
    TOO_MANY_TRIGGERS = 507
    TOO_MANY_TWAPS = 508
    WOULD_FIRE = 509
    DEAD_MAN_TOO_SOON = 510
    DEAD_MAN_USED_UP = 511

    # ledger and settlement
    WRONG_BATCH_NUMBER = 600
    WRONG_PRE_STATE = 601
    BAD_BATCH_DATA = 602
    BAD_CERTIFICATE = 603
    BAD_INBOX_CURSOR = 604
    NOT_A_PROVER = 605
    ALREADY_PAID = 606
    BAD_PROOF = 607
    UNKNOWN_BATCH = 608
    INSUFFICIENT_BALANCE = 609
    BAD_LEDGER_NONCE = 610
    TRANSACTION_TOO_LARGE = 611
    BAD_OUTBOX = 612
    FEE_TOO_LOW = 613
    BAD_EVIDENCE = 614
    EVIDENCE_EXPIRED = 615
    EVIDENCE_KNOWN = 616
    NOT_A_VALIDATOR = 617
    JAILED = 618
    BAD_STAKE = 619
    UNTRUSTED_CHECKPOINT = 620
    WRONG_EPOCH = 621
    NOT_FINAL = 622
    BAD_BOND = 623
    SHARD_FROZEN = 624
    UNKNOWN_DISPUTE = 630
    DISPUTE_OPEN = 631
    NOTHING_DISPUTED = 632
    WINDOW_OVER = 633
    NOT_YOUR_TURN = 634
    BAD_MOVE = 635
    BAD_WITNESS = 636
    OUT_OF_TIME = 637
    BAD_PART = 638
    NOT_OVERDUE = 640
    NOT_FROZEN = 641
    CLAIMS_OPEN = 642
    CLAIMS_CLOSED = 643
    ALREADY_CLAIMED = 644
    NO_CLAIM = 645
    EXIT_LIMIT = 646
    NOT_FORCEABLE = 647
    NOT_REFUNDABLE = 648
    BAD_PRICES = 651
    MARK_OUT_OF_BAND = 652
    FUNDING_BEYOND_CAP = 653
    STALE_PRICES_MOVED = 654

    # availability
    BUSY = 700
    NOT_RETAINED = 701
    NOT_READY = 702
    RATE_LIMITED = 703
    NOT_FOUND = 704
    TOO_MANY_SUBSCRIPTIONS = 705
    SLOW_CONSUMER = 706

    @property
    def label(self) -> str:
        """The code's public name, e.g. ``unknown_market``."""
        return self.name.lower()


class TrilemmaError(Exception):
    """Base of the project's own errors."""


class Rejected(TrilemmaError):
    """A peer's or client's input was refused; carries a stable code and a text that helps."""

    def __init__(self, code: Code, text: str = "") -> None:
        super().__init__(f"{code.label}: {text}" if text else code.label)
        self.code = code
        self.text = text or code.label.replace("_", " ")


class RemoteFault(TrilemmaError):
    """The other side answered with an error frame, or broke the protocol."""

    def __init__(self, code: int, text: str) -> None:
        try:
            label = Code(code).label
        except ValueError:
            label = f"code {code}"
        super().__init__(f"{label}: {text}")
        self.code = code
        self.text = text


class ConfigError(TrilemmaError):
    """Configuration, key file or directory cannot be used; the text says what to do (exit 2)."""


class SafetyViolation(TrilemmaError):
    """An invariant of ours is broken; the process must stop with exit status 5."""
