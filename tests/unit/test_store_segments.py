"""The segment log: what is synced is never cut, what is torn is, and damage is told apart."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from protocol.errors import SafetyViolation
from store.segment_file import HEADER_BYTES, MARKER_BODY_BYTES, PREFIX, encode_record
from store.segments import SegmentLog, StoreDamaged

MARKER_BYTES = PREFIX.size + MARKER_BODY_BYTES


def contents(log: SegmentLog) -> list[tuple[int, bytes]]:
    return list(log.iterate(log.first_index))


def only_file(directory: Path) -> Path:
    (path,) = directory.glob("*.seg")
    return path


def crash(log: SegmentLog) -> None:
    """Leave the log as a killed process does: what was flushed stands, the rest is gone."""
    os.close(log._descriptor)
    log._descriptor = -1


def flip(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 0x40
    path.write_bytes(raw)


def test_records_keep_their_numbers_over_reopening(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    model: list[bytes] = []
    for _ in range(4):
        log = SegmentLog(tmp_path, 20_000)
        assert (log.first_index, log.next_index) == (0, len(model))
        for _ in range(300):
            payload = draw.randbytes(draw.randint(1, 200))
            assert log.append(payload) == len(model)
            model.append(payload)
            if draw.random() < 0.1:
                log.sync()
                assert log.synced_index == len(model)
            place = draw.randrange(len(model))
            assert log.read(place) == model[place]
        assert contents(log) == list(enumerate(model))
        start = draw.randrange(len(model))
        assert list(log.iterate(start)) == list(enumerate(model))[start:]
        log.close()
    assert len(list(tmp_path.glob("*.seg"))) > 3
    log = SegmentLog(tmp_path, 20_000, check_all=False)
    assert contents(log) == list(enumerate(model))
    for index in (-1, len(model)):
        with pytest.raises(IndexError):
            log.read(index)


def test_large_and_small_records_mix(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, 4_000_000)
    payloads = [bytes([i]) * (400_000 if i % 5 == 0 else 3) for i in range(1, 40)]
    for payload in payloads:
        log.append(payload)
    assert [log.read(i) for i in range(len(payloads))] == payloads
    log.close()
    log = SegmentLog(tmp_path, 4_000_000)
    assert [log.read(i) for i in reversed(range(len(payloads)))] == payloads[::-1]


def test_unsynced_records_are_read_and_iterated(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    log.append(b"one")
    log.sync()
    log.append(b"two")
    assert log.read(1) == b"two"
    log.append(b"three")
    assert contents(log) == [(0, b"one"), (1, b"two"), (2, b"three")]
    assert log.synced_index == 1


def test_flushed_records_outlive_the_process_but_buffered_ones_do_not(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    log.append(b"flushed")
    log.flush()
    log.append(b"buffered")
    crash(log)
    log = SegmentLog(tmp_path)
    assert contents(log) == [(0, b"flushed")]
    assert log.synced_index == 1


def test_a_torn_tail_is_cut_at_every_byte(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path / "origin")
    for i in range(3):
        log.append(b"synced-%d" % i)
    log.sync()
    log.append(b"the unsynced last record")
    log.flush()
    crash(log)
    raw = only_file(tmp_path / "origin").read_bytes()
    record = len(encode_record(b"the unsynced last record"))
    name = only_file(tmp_path / "origin").name
    for kept in range(record):
        directory = tmp_path / f"cut{kept}"
        directory.mkdir()
        (directory / name).write_bytes(raw[: len(raw) - record + kept])
        torn = SegmentLog(directory)
        assert torn.cut_bytes == kept
        assert contents(torn) == [(i, b"synced-%d" % i) for i in range(3)]
        assert torn.append(b"next") == 3
        torn.close()
        assert contents(SegmentLog(directory))[-1] == (3, b"next")


def test_a_wrong_byte_in_the_unsynced_tail_cuts_from_there(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path / "origin")
    log.append(b"synced")
    log.sync()
    start = only_file(tmp_path / "origin").stat().st_size
    for i in range(3):
        log.append(b"tail-%d" % i)
    log.flush()
    crash(log)
    path = only_file(tmp_path / "origin")
    raw = path.read_bytes()
    size = len(encode_record(b"tail-0"))
    for offset in range(start, len(raw)):
        directory = tmp_path / f"flip{offset}"
        directory.mkdir()
        (directory / path.name).write_bytes(raw)
        flip(directory / path.name, offset)
        survivors = 1 + (offset - start) // size
        assert SegmentLog(directory).next_index == survivors


def test_any_wrong_byte_before_the_last_sync_refuses_to_open(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    for i in range(4):
        log.append(b"record-%d" % i)
        if i % 2:
            log.sync()
    crash(log)
    path = only_file(tmp_path)
    raw = path.read_bytes()
    for offset in range(len(raw) - MARKER_BYTES):
        path.write_bytes(raw)
        flip(path, offset)
        with pytest.raises(StoreDamaged) as damage:
            SegmentLog(tmp_path)
        assert damage.value.path == path
        assert damage.value.offset <= offset
    path.write_bytes(raw)
    assert SegmentLog(tmp_path).next_index == 4


def test_damage_is_refused_although_an_unsynced_tail_follows(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    log.append(b"synced")
    log.sync()
    log.append(b"unsynced")
    log.flush()
    crash(log)
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    flip(path, HEADER_BYTES + PREFIX.size)
    with pytest.raises(StoreDamaged):
        SegmentLog(tmp_path)


def test_a_payload_holding_log_bytes_is_no_sync_marker(tmp_path: Path) -> None:
    other = SegmentLog(tmp_path / "other")
    other.append(b"x" * 2000)
    other.sync()
    crash(other)
    stolen = only_file(tmp_path / "other").read_bytes()
    log = SegmentLog(tmp_path / "log")
    log.append(b"first")
    log.sync()
    start = only_file(tmp_path / "log").stat().st_size
    log.append(b"torn")
    log.append(stolen)
    log.flush()
    crash(log)
    flip(only_file(tmp_path / "log"), start + PREFIX.size)
    assert SegmentLog(tmp_path / "log").next_index == 1


@pytest.mark.parametrize("way", ["flip", "cut", "remove"])
def test_damage_in_an_older_segment_refuses(tmp_path: Path, way: str) -> None:
    log = SegmentLog(tmp_path, 300)
    for i in range(40):
        log.append(b"%030d" % i)
    log.close()
    victim = sorted(tmp_path.glob("*.seg"))[2]
    if way == "flip":
        flip(victim, victim.stat().st_size - 2)
    elif way == "cut":
        os.truncate(victim, victim.stat().st_size - len(encode_record(b"%030d" % 0)))
    else:
        victim.unlink()
    with pytest.raises(StoreDamaged) as damage:
        SegmentLog(tmp_path, 300)
    assert "damaged at offset" in str(damage.value)


def test_damage_that_comes_while_running_is_seen_by_readers(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    log.append(b"payload")
    log.append(b"another")
    log.sync()
    flip(only_file(tmp_path), HEADER_BYTES + PREFIX.size + 2)
    with pytest.raises(StoreDamaged):
        log.read(0)
    with pytest.raises(StoreDamaged):
        contents(log)
    assert log.read(1) == b"another"


def test_truncate_before_drops_whole_segments_only(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, 300)
    for i in range(40):
        log.append(b"%030d" % i)
    log.read(0)
    log.truncate_before(20)
    assert 0 < log.first_index <= 20
    assert contents(log) == [(i, b"%030d" % i) for i in range(log.first_index, 40)]
    with pytest.raises(IndexError):
        log.read(log.first_index - 1)
    first = log.first_index
    log.close()
    log = SegmentLog(tmp_path, 300)
    assert (log.first_index, log.next_index) == (first, 40)
    log.truncate_before(1000)
    assert log.next_index == 40
    assert log.append(b"more") == 40


@pytest.mark.parametrize("last", [-1, 0, 3, 5, 17, 38, 39])
def test_truncate_after_holds_over_reopening(tmp_path: Path, last: int) -> None:
    log = SegmentLog(tmp_path, 300)
    for i in range(40):
        log.append(b"%030d" % i)
        if i % 7 == 0:
            log.sync()
    log.truncate_after(last)
    expected = [(i, b"%030d" % i) for i in range(last + 1)]
    assert log.next_index == last + 1
    assert contents(log) == expected
    assert log.append(b"instead") == last + 1
    crash_free = [*expected, (last + 1, b"instead")]
    assert contents(log) == crash_free
    assert log.read(last + 1) == b"instead"
    log.close()
    assert contents(SegmentLog(tmp_path, 300)) == crash_free


def test_truncation_ends_a_running_iteration(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    for i in range(5):
        log.append(b"%d" % i)
    running = log.iterate(0)
    next(running)
    log.truncate_after(2)
    with pytest.raises(IndexError):
        list(running)


def test_restart_voids_the_old_log_even_after_a_crash_half_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SegmentLog(tmp_path, 300)
    for i in range(20):
        log.append(b"%030d" % i)
    log.sync()
    with monkeypatch.context() as patch:
        patch.setattr(SegmentLog, "_unlink", lambda self, segments: None)
        log.restart(1000)
    crash(log)
    log = SegmentLog(tmp_path, 300)
    assert (log.first_index, log.next_index) == (1000, 1000)
    assert len(list(tmp_path.glob("*.seg"))) == 1
    assert log.append(b"new") == 1000
    assert contents(log) == [(1000, b"new")]
    with pytest.raises(IndexError):
        log.restart(5)


def test_restart_at_an_empty_segment_voids_the_older_ones(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, 300)
    for i in range(8):
        log.append(b"%030d" % i)
    start = log._current.first_index
    assert start > 0
    log.truncate_after(start - 1)
    log._roll() if log._current.first_index != start else None
    log.restart(start)
    assert (log.first_index, log.next_index) == (start, start)
    assert log.append(b"new") == start


def test_a_log_may_begin_at_a_given_number(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, first_index=77)
    assert log.append(b"x") == 77
    log.close()
    assert contents(SegmentLog(tmp_path)) == [(77, b"x")]


def test_a_sync_in_two_steps_covers_what_was_there_when_it_began(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    log.append(b"one")
    pending = log.start_sync()
    assert pending is not None
    log.append(b"two")
    assert log.synced_index == 0
    pending.wait()
    log.finish_sync(pending)
    assert log.synced_index == 1
    log.sync()
    assert log.synced_index == 2
    assert log.start_sync() is None
    crash(log)
    assert contents(SegmentLog(tmp_path)) == [(0, b"one"), (1, b"two")]


def test_after_a_failed_sync_the_log_refuses_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SegmentLog(tmp_path)
    log.append(b"x")

    def fail(descriptor: int) -> None:
        raise OSError(5, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="input/output"):
            log.sync()
    assert log.synced_index == 0
    with pytest.raises(OSError, match="unusable"):
        log.append(b"y")


def test_an_empty_record_is_our_own_mistake(tmp_path: Path) -> None:
    with pytest.raises(SafetyViolation):
        SegmentLog(tmp_path).append(b"")


def test_a_half_created_segment_is_ignored(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    log.append(b"x")
    log.close()
    (tmp_path / "00000000000000000001.seg.tmp").write_bytes(b"TRI")
    assert contents(SegmentLog(tmp_path)) == [(0, b"x")]
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not list them")
def test_few_segments_are_held_open_however_many_are_read(tmp_path: Path) -> None:
    """Descriptors must not grow with what is asked for of a long history."""
    log = SegmentLog(tmp_path, 4_096)
    payloads = [number.to_bytes(512, "big") for number in range(200)]
    for payload in payloads:
        log.append(payload)
    log.sync()
    before = len(os.listdir("/proc/self/fd"))
    assert [log.read(number) for number in range(200)] == payloads
    assert len(list(tmp_path.glob("*.seg"))) > 20
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    log.close()
