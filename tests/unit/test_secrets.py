"""Keys stay where they are: modes of files, and no key in an error, a log or a crash."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.testnet import TestnetOptions, create_testnet
from net.runner import _require_private
from protocol.errors import ConfigError
from protocol.keys import Key
from store.keyfiles import load_key, save_key
from store.testnet import Testnet

ROOT = Path(__file__).parents[2]
SEED = bytes(range(100, 132))


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    return create_testnet(tmp_path / "net", TestnetOptions(validators=1, traders=2))


def started(testnet: Testnet, name: str, *, expected: int = 2) -> str:
    """What a process says that is started and refuses."""
    entry = testnet.process(name)
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", entry.role, "--config",
         str(testnet.config_path(name))],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == expected, done.stderr
    return done.stdout + done.stderr


def forms(key: Key) -> list[str]:
    """How a key might be printed."""
    seed = key.seed()
    return [seed.hex(), seed.hex().upper(), repr(seed)[2:-1], str(list(seed))[1:-1]]


def test_every_key_of_a_testnet_is_its_owners_alone(testnet: Testnet) -> None:
    folder = testnet.key_path("validator-0").parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    found = list(folder.iterdir())
    assert len(found) >= 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_process_does_not_start_with_a_key_that_others_can_reach(
    testnet: Testnet, mode: int
) -> None:
    path = testnet.key_path("validator-0")
    path.chmod(mode)
    said = started(testnet, "validator-0")
    assert "is open to others; run: chmod 600" in said and "Traceback" not in said


def test_the_mode_that_counts_is_that_of_the_file_behind_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "real", tmp_path / "link"
    save_key(Key(SEED), path)
    link.symlink_to(path)
    assert load_key(link).seed() == SEED
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="open to others"):
        load_key(link)


def test_what_is_no_file_is_no_key(tmp_path: Path) -> None:
    endless = tmp_path / "endless"
    endless.symlink_to("/dev/zero")
    with pytest.raises(ConfigError):
        load_key(endless)
    with pytest.raises(ConfigError, match="cannot read"):
        load_key(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "longer", "typo", "binary"])
def test_a_damaged_key_is_not_quoted(testnet: Testnet, damage: str) -> None:
    path = testnet.key_path("validator-0")
    text = path.read_text().strip()
    damaged = {
        "cut": text[:-1], "longer": text + text[:2], "typo": text[:30] + "x" + text[31:],
        "binary": "\udcff" + text,
    }[damage]  # fmt: skip
    path.write_bytes(damaged.encode("utf-8", "surrogateescape"))
    said = started(testnet, "validator-0")
    assert "64 hex digits" in said and "Traceback" not in said
    assert text[:16] not in said and text[40:56] not in said


def test_another_members_key_is_refused_without_a_word_of_it(testnet: Testnet) -> None:
    path, key = testnet.key_path("validator-0"), testnet.key("sequencer-0")
    path.write_text(key.seed().hex() + "\n")
    said = started(testnet, "validator-0")
    assert "is not the key of node 0" in said
    assert not [form for form in forms(key) if form in said]


def test_a_data_directory_that_anybody_may_change_is_refused(testnet: Testnet) -> None:
    data = testnet.directory / "data" / "validator-0"
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o777)
    assert "chmod o-w" in started(testnet, "validator-0")


def test_a_shared_folder_whose_files_are_their_owners_will_do(testnet: Testnet) -> None:
    """As ``/tmp``, or a container's volume: the sticky bit keeps others from the files in it."""
    data = testnet.directory / "data" / "validator-0"
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o1777)
    _require_private(data)


CRASH = """
import asyncio, os, resource, stat, sys
from pathlib import Path
from net.runner import run_process

async def serve(config, chain, key, stop):
    seed, private = key.seed(), key.private
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    path = config.data / "new"
    path.mkdir()
    (path / "file").write_text("x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((path / "file").stat().st_mode) == 0o600
    print("checked", file=sys.stderr)
    {ending}

sys.exit(run_process(Path(sys.argv[1]), "node", serve))
"""
ENDINGS = {
    "bug": "raise KeyError(f'our own fault with {key} and {private}')",
    "callback": "asyncio.get_running_loop().call_soon(lambda: [key][9]); await stop.wait()",
    "safety": "from protocol.errors import SafetyViolation; raise SafetyViolation(f'{key}')",
    "disk": "raise OSError(28, 'no space left', str(key))",
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("log_json", ["true", "false"])
def test_no_crash_prints_a_key(testnet: Testnet, ending: str, log_json: str) -> None:
    """Traces show no values of variables, and a key that is printed shows nothing of itself."""
    config = testnet.config_path("validator-0")
    text = config.read_text()
    assert text.count("log_json = false") == 1
    config.write_text(text.replace("log_json = false", f"log_json = {log_json}"))
    done = subprocess.run(
        [sys.executable, "-c", CRASH.format(ending=ENDINGS[ending]), str(config)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode in (1, 5) and "checked" in said, said
    assert not [form for form in forms(testnet.key("validator-0")) if form in said], said


def test_no_process_gets_a_secret_through_its_environment() -> None:
    """Nothing in the packages reads a key from the environment, where every child has it too."""
    for package in ("store", "net", "node", "sequencer", "execution", "prover"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            assert "os.environ" not in text and "getenv" not in text, path


def test_a_printed_key_says_nothing_of_itself() -> None:
    key = Key(SEED)
    said = f"{key} {key!r} {key.private!r} {[key]}"
    assert not [form for form in forms(key) if form in said]
    assert os.fsencode(said)
