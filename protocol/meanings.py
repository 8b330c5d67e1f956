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
    "that the owner approved (agents trade, but never withdraw).",
    Code.NONCE_USED: "The signer used this nonce for something else. Take a new one.",
    Code.NONCE_EXPIRED: "The nonce is too old to be told from a repetition. Take the clock in "
    "milliseconds.",
    Code.NONCE_TOO_NEW: "The nonce is more than a day ahead. Take the clock in milliseconds.",
    Code.SESSION_NOT_PROVEN: "The session has not proven the signer. Answer its challenge with "
    "Authenticate first.",
    Code.AGENT_EXPIRED: "The agent key's approval has run out. Let the owner approve a new key.",
    Code.AGENT_REVOKED: "The agent key was revoked and never returns. Approve another key.",
    Code.SCHEME_UNKNOWN: "The signature scheme is not supported. 1 is Ed25519.",
    Code.ACTION_EXPIRED: "The batch came into a block after its own expiry. Send it anew.",
    Code.TOO_MANY_AGENTS: "The account has as many agents, revoked ones included, as are allowed.",
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
    Code.UNKNOWN_ACCOUNT: "There is no such account. An account begins with its first deposit.",
    Code.INSUFFICIENT_MARGIN: "Equity does not cover the initial margin afterwards. Deposit, "
    "cancel orders or reduce positions.",
    Code.INSUFFICIENT_CASH: "The account has not that much settled cash.",
    Code.TOO_MANY_ORDERS: "The account has as many resting orders as are allowed. Cancel some.",
    Code.POSITION_LIMIT: "Position and orders together would exceed the market's limit.",
    Code.BAD_AMOUNT: "The amount must be above zero and below 2^42 micro-dollars.",
    Code.UNKNOWN_ORDER: "No such order of the account rests: it is filled, cancelled or another's.",
    Code.DUPLICATE_CLIENT_ID: "A resting order of the account has this client id already.",
    Code.WOULD_TAKE: "A post-only order would have met the book.",
    Code.NO_LIQUIDITY: "Nothing within the limit could be taken.",
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
