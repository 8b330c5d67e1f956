"""What each result code means, and what to do about it.

Results of single actions travel as bare codes; clients show these sentences. ``docs/errors.md`` is
made from them.
"""

from __future__ import annotations

from protocol.errors import Code

MEANINGS: dict[Code, str] = {
    Code.OK: "Done.",
    Code.MALFORMED: "The frame is not one MessagePack value. Encode one array per frame.",
    Code.WRONG_TYPE: "A field has the wrong type or length. Compare with the message's fields.",
    Code.NON_CANONICAL: "What is signed must be in its only encoding: shortest integers, exact "
    "arrays, nothing behind the end.",
    Code.FRAME_TOO_LARGE: "The frame is above the limit (256 KiB from clients). Send less at once.",
    Code.UNKNOWN_MESSAGE: "This process does not answer such a message. Check tag and role.",
    Code.WRONG_CHAIN: "The process belongs to another chain. Use the genesis file of this one.",
    Code.WRONG_VERSION: "The process speaks another version of the wire; the text names it.",
    Code.BAD_SIGNATURE: "The signature does not match signer and content. Sign the documented "
    "digest with the signer's key.",
    Code.UNKNOWN_SIGNER: "Nothing is known of this key here. Check the key.",
    Code.NOT_AUTHORISED: "The signer may not do this for the account. Use the owner's key, or one "
    "that the owner approved (agents trade, but never withdraw). Only a master account has "
    "agents.",
    Code.NONCE_USED: "The signer used this nonce for something else. Take a new one.",
    Code.NONCE_EXPIRED: "The nonce is too old to be told from a repetition. Take the clock in "
    "milliseconds.",
    Code.NONCE_TOO_NEW: "The nonce is more than a day ahead. Take the clock in milliseconds.",
    Code.SESSION_NOT_PROVEN: "The session has not proven the signer. Answer its challenge with "
    "Authenticate first.",
    Code.AGENT_EXPIRED: "The agent key's approval has run out. Let the owner approve a new key.",
    Code.AGENT_REVOKED: "The agent key was revoked and never returns. Approve another key.",
    Code.SCHEME_UNKNOWN: "The signature scheme is not supported. 1 is Ed25519.",
    Code.ACTION_EXPIRED: "The batch or order came into a block after its expiry. Send it anew.",
    Code.TOO_MANY_AGENTS: "The account has as many live agents, or revoked ones, as are kept.",
    Code.WRONG_SHARD: "This is addressed to another shard.",
    Code.UNKNOWN_MARKET: "There is no such market. Genesis lists the markets.",
    Code.BAD_PRICE: "The price must be a whole number of ticks above zero and below 2^31.",
    Code.BAD_SIZE: "The size must be a whole number of lots above zero and within the market's "
    "limit for one order.",
    Code.BELOW_MIN_NOTIONAL: "The order is worth less than the market's least notional.",
    Code.TOO_MANY_ACTIONS: "A batch holds 1 to 100 actions. Split it.",
    Code.MIXED_BATCH: "Oracle prices and other actions cannot share a batch.",
    Code.BAD_SLIPPAGE: "The slippage must be 1 to 500,000 parts per million.",
    Code.STALE_ORACLE: "A newer price of this oracle is known already.",
    Code.BAD_FLAGS: "The order has flags that do not exist, or that do not go with its kind.",
    Code.BAD_EXPIRY: "The expiry is negative. Take milliseconds since 1970, or 0 for none.",
    Code.PRICE_BAND: "The limit is further through the mark than the market's price band.",
    Code.MARKET_HALTED: "The market is halted: nothing is taken, not even cancels.",
    Code.MARKET_CANCEL_ONLY: "The market takes only cancels for now.",
    Code.MARKET_POST_ONLY: "The market takes only post-only orders and cancels for now.",
    Code.MARKET_REDUCE_ONLY: "The market takes only what reduces positions, and cancels.",
    Code.STALE_MARKET: "The market's prices are stale or wild: only what reduces is taken.",
    Code.MARKET_EXPIRED: "The market has expired and is settled.",
    Code.BAD_TRIGGER: "Kind, trigger or limit of the trigger order is out of range.",
    Code.BAD_LINK: "The orders of an OCO or bracket do not belong together: one market; OCO: one "
    "side; bracket: a take-profit and a stop on the opposite side, with size 0. A linked order can "
    "only shrink.",
    Code.BAD_DURATION: "The duration must be 1 slice (30 s) to 24 h.",
    Code.BAD_QUOTES: "Quotes must be best first, without crossing each other, at most 50 a side.",
    Code.BAD_LEVERAGE: "The leverage must be 1 to what the market's initial margin allows, or 0.",
    Code.BAD_PROTECTION: "Protection needs 1 to 1000 fills in 1 ms to 1 h, or 0 and 0 for none.",
    Code.BAD_MODE: "There is no such market mode.",
    Code.BAD_CONFIDENCE: "The confidence must be 0 to 1000000 parts per million.",
    Code.UNKNOWN_ACCOUNT: "There is no such account. An account begins with its first deposit, a "
    "sub-account with its first transfer.",
    Code.INSUFFICIENT_MARGIN: "Equity does not cover the initial margin afterwards. Deposit, "
    "cancel orders or triggers, or reduce positions.",
    Code.INSUFFICIENT_CASH: "The account has not that much settled cash.",
    Code.TOO_MANY_ORDERS: "The account has as many resting orders as are allowed. Cancel some.",
    Code.POSITION_LIMIT: "Position and orders together would exceed the market's limit.",
    Code.BAD_AMOUNT: "The amount must be above zero and below 4,398,046.511104 dollars (2^42 "
    "micro-dollars).",
    Code.OPEN_INTEREST_LIMIT: "The market's open interest is at its cap.",
    Code.NOTIONAL_LIMIT: "Price x size, or the position's notional, is above what may be held.",
    Code.LIQUIDATING: "The account is being liquidated. Only deposits and what reduces are taken.",
    Code.WRONG_TRANSFER: "Transfers go between different accounts of one master account, or, as "
    "cash, to a fund.",
    Code.TOO_MANY_SUBACCOUNTS: "The number of the account is beyond the sub-accounts allowed.",
    Code.LEVERAGE_TOO_HIGH: "Positions and orders need more than the account would have then.",
    Code.NO_POSITION: "The account has no such position to move.",
    Code.ISOLATED_ACCOUNT: "An isolated account trades in its own market alone.",
    Code.TOO_MANY_POSITIONS: "The account has positions or orders in as many markets as it may.",
    Code.UNKNOWN_ORDER: "No such order of the account rests: it is filled, cancelled or another's.",
    Code.DUPLICATE_CLIENT_ID: "A resting order of the account has this client id already.",
    Code.WOULD_TAKE: "A post-only order would have met the book.",
    Code.NO_LIQUIDITY: "Nothing within the limit could be taken.",
    Code.NOT_REDUCING: "A reduce-only order needs a position on the other side, a "
    "reduce-only trigger a position or an order in its market.",
    Code.NOT_FILLABLE: "The book could not fill the whole order at once, so nothing was done.",
    Code.SELF_TRADE: "The rest was cancelled, since it would have met the owner's own order.",
    Code.TOO_MANY_TRIGGERS: "As many triggers wait, of the account or in the market, as may.",
    Code.TOO_MANY_TWAPS: "The account has as many TWAP orders as it may.",
    Code.WOULD_FIRE: "The trigger would fire at the present mark.",
    Code.DEAD_MAN_TOO_SOON: "A dead-man's switch must be set at least 5 s ahead.",
    Code.DEAD_MAN_USED_UP: "The dead-man's switch went off 10 times today. Set it again tomorrow.",
    Code.WRONG_BATCH_NUMBER: "The batch does not follow the shard's last one.",
    Code.WRONG_PRE_STATE: "The batch does not start from the shard's last state root.",
    Code.BAD_BATCH_DATA: "The data of the batch is not exactly the ordered blocks it names.",
    Code.BAD_CERTIFICATE: "A certificate or block does not verify against the member set.",
    Code.BAD_INBOX_CURSOR: "The inbox height or cursor does not follow from the ledger.",
    Code.NOT_A_PROVER: "Only provers named in genesis post batches, under their own name.",
    Code.ALREADY_PAID: "This outbox entry was paid before.",
    Code.BAD_PROOF: "The proof does not lead to the root.",
    Code.UNKNOWN_BATCH: "No batch of this number is settled.",
    Code.INSUFFICIENT_BALANCE: "The ledger balance, or the bridge, does not hold that much.",
    Code.BAD_LEDGER_NONCE: "The nonce is not the number of transactions that the sender has made.",
    Code.TRANSACTION_TOO_LARGE: "The transaction does not fit a ledger block.",
    Code.BAD_OUTBOX: "The batch's outbox numbers or root do not follow from the last batch.",
    Code.FEE_TOO_LOW: "The fee is below what genesis asks for a transaction of this size, or does "
    "not exceed that of the one it would replace by a tenth.",
    Code.BAD_EVIDENCE: "The two statements do not prove that a member signed against itself.",
    Code.EVIDENCE_EXPIRED: "The offence is older than the evidence period.",
    Code.EVIDENCE_KNOWN: "The member has been punished for this offence already.",
    Code.NOT_A_VALIDATOR: "The sender is no validator. Bond stake first.",
    Code.JAILED: "The validator is jailed; its time must pass, then send Unjail.",
    Code.BAD_STAKE: "The stake moved is out of range, or more than the validator has.",
    Code.UNTRUSTED_CHECKPOINT: "The checkpoint is older than the trusting period, so its signers "
    "may have left without risk. Get a newer one from a source that you trust.",
    Code.WRONG_EPOCH: "The epoch is not known here. Ask for the epochs in order.",
    Code.NOT_FINAL: "The batch can still be disputed. Send the same when its window has passed.",
    Code.BAD_BOND: "The bond is less than genesis asks for with a batch.",
    Code.SHARD_FROZEN: "The shard is frozen: it takes no deposits and no batches any more.",
    Code.UNKNOWN_DISPUTE: "There is no open dispute of this challenger on this batch.",
    Code.DISPUTE_OPEN: "The challenger has an open dispute on this batch already.",
    Code.NOTHING_DISPUTED: "What the challenger shows is what the batch's header says.",
    Code.WINDOW_OVER: "The batch can no longer be disputed: its window has passed.",
    Code.NOT_YOUR_TURN: "It is the other side's move, or not this kind of move's turn.",
    Code.BAD_MOVE: "The move does not fit the open segment. The text says what would.",
    Code.BAD_WITNESS: "The witness is not of the state that both sides agreed on, or no state.",
    Code.OUT_OF_TIME: "The side's clock has run out.",
    Code.BAD_PART: "This is not the next part of a witness in this game, or not a part at all. The "
    "text says what is.",
    Code.NOT_OVERDUE: "The shard has missed no deadline, so that nobody can freeze it.",
    Code.NOT_FROZEN: "Only a frozen shard has claims and refunds. Withdraw, or force a withdrawal.",
    Code.CLAIMS_OPEN: "Claims still register. Collect when their time is over.",
    Code.CLAIMS_CLOSED: "The time in which claims on the frozen shard register is over.",
    Code.ALREADY_CLAIMED: "The account has its claim. Collect it when claims are closed.",
    Code.NO_CLAIM: "The account is worth nothing in the final state, or registered no claim.",
    Code.EXIT_LIMIT: "So much may not leave the bridge within this hour or day. Send the same "
    "payout again when the next one begins.",
    Code.NOT_FORCEABLE: "Only a withdrawal, a cancel-all or a reduce-only market order can be "
    "forced, alone in its batch.",
    Code.NOT_REFUNDABLE: "The inbox entry is no deposit that the frozen shard left behind.",
    Code.BAD_PRICES: "The posted prices are no list of changes, by block and market.",
    Code.MARK_OUT_OF_BAND: "A posted mark is outside its band around the accepted oracle price.",
    Code.FUNDING_BEYOND_CAP: "A posted funding index moved by more than its cap, or too early.",
    Code.STALE_PRICES_MOVED: "A posted mark or funding index moved without a fresh oracle price.",
    Code.BUSY: "A pool or limit is full. Send the same again in a moment.",
    Code.NOT_RETAINED: "That part of the history is not kept here, or does not exist yet.",
    Code.NOT_READY: "The process has not got that far yet. Ask again in a moment.",
    Code.RATE_LIMITED: "Too much of this session is under way. Await answers first.",
    Code.NOT_FOUND: "There is nothing under this name.",
    Code.TOO_MANY_SUBSCRIPTIONS: "The session asks for more than a subscription may hold.",
    Code.SLOW_CONSUMER: "The session read too slowly and was closed. Resume where you stopped.",
}
"""A sentence for every code; a test holds that none is missing."""


def meaning(code: int) -> str:
    """The sentence of a code, also of one that this version does not know."""
    try:
        return MEANINGS[Code(code)]
    except ValueError:
        return "This version does not know the code."


def errors_page() -> str:
    """``docs/errors.md``."""
    lines = [
        "# Result codes",
        "",
        "Every refusal carries a stable number and a text. Made by `make docs`.",
        "",
        "| code | name | meaning |",
        "| ---: | --- | --- |",
    ]
    lines += [f"| {int(code)} | `{code.label}` | {text} |" for code, text in MEANINGS.items()]
    return "\n".join(lines) + "\n"
