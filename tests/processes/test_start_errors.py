"""What a process says when it cannot start: one sentence, exit status 2, no traceback."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_world import ROLES, ROOT

from cluster.supervisor import role_command
from cluster.testnet import TestnetOptions, create_testnet
from protocol.keys import Key
from store.config import Role, parse_address
from store.keyfiles import save_key
from store.testnet import ProcessEntry, Testnet

PROCESS = {
    "node": "validator-0",
    "sequencer": "sequencer-0",
    "execution": "execution-0",
    "prover": "prover-0",
}
OTHER_ROLE: dict[Role, Role] = {
    "node": "prover", "sequencer": "node", "execution": "sequencer", "prover": "execution",
}  # fmt: skip
DEADLINE_S = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "testnet"
    create_testnet(directory, TestnetOptions(free_ports=True, traders=1))
    return directory


@pytest.fixture
def testnet(made: Path, tmp_path: Path) -> Testnet:
    """A fresh copy, so that each test may break its own."""
    return Testnet.load(shutil.copytree(made, tmp_path / "testnet"))


def command(role: Role, config: Path) -> list[str]:
    """The command line with which the supervisor starts a process."""
    return role_command(ProcessEntry(PROCESS[role], role, 0, ""), config)


def start(role: Role, config: Path) -> subprocess.CompletedProcess[str]:
    """Run a process that must not start; a deadline stands for one that does."""
    return subprocess.run(
        command(role, config),
        cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip


def refuses(role: Role, config: Path, *words: str) -> str:
    """The one sentence with which the process ends; checks its form and that it has `words`."""
    ended = start(role, config)
    text = ended.stderr
    assert ended.returncode == 2, text
    assert "Traceback" not in text and ended.stdout == "", text
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) == 1, text
    assert lines[0].startswith("trilemma"), text
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"
    return lines[0]


def change(testnet: Testnet, role: Role, edit: Callable[[str], str]) -> Path:
    """Edit a process's configuration; returns its path."""
    path = testnet.config_path(PROCESS[role])
    text = path.read_text()
    edited = edit(text)
    assert edited != text, "the edit did nothing"
    path.write_text(edited)
    return path


def replaced(field: str, value: str) -> Callable[[str], str]:
    """Give a field another TOML value."""
    return lambda text: re.sub(rf"(?m)^{field} = .*$", f"{field} = {value}", text)


@pytest.mark.parametrize("role", ROLES)
def test_a_configuration_that_is_missing_or_broken(testnet: Testnet, role: Role) -> None:
    refuses(role, testnet.directory / "nowhere.toml", "nowhere.toml", "No such file")
    refuses(role, testnet.directory, "Is a directory")
    path = testnet.config_path(PROCESS[role])
    good = path.read_text()
    path.write_text("role = [")
    refuses(role, path, "malformed")
    if role in ("execution", "prover"):  # above its first table
        path.write_text(good + '\nunheard = "of"\n')
        refuses(role, path, "malformed", "unheard")


def test_what_a_configuration_may_have_wrong(testnet: Testnet) -> None:
    path = testnet.config_path(PROCESS["node"])
    good = path.read_text()
    for text, words in (
        (good.replace("name = ", "nam = ", 1), ("malformed", "`nam`")),
        ('unheard = "of"\n' + good, ("malformed", "unheard")),
        (replaced("index", '"zero"')(good), ("malformed", "index")),
        (replaced("public", '"127.0.0.1"')(good), ("host:port",)),
        (replaced("public", '"127.0.0.1:99999"')(good), ("65535",)),
        (replaced("log_level", '"loud"')(good), ("log_level", "loud")),
        ("", ("malformed",)),
    ):
        path.write_text(text)
        refuses("node", path, *words)
    path.write_bytes(b"\xff\xfe")
    refuses("node", path, "UTF-8")


@pytest.mark.parametrize("role", ROLES)
def test_a_configuration_of_another_role(testnet: Testnet, role: Role) -> None:
    other = OTHER_ROLE[role]
    refuses(role, testnet.config_path(PROCESS[other]), f"role {other}", f"not {role}")


@pytest.mark.parametrize("role", ROLES)
def test_a_port_in_use(testnet: Testnet, role: Role) -> None:
    with socket.socket() as taken:
        # Somebody's closed connection may still linger on the port.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(parse_address(testnet.process(PROCESS[role]).public))
        taken.listen()
        port = str(taken.getsockname()[1])
        refuses(role, testnet.config_path(PROCESS[role]), port, "already in use")


def test_a_peer_port_in_use(testnet: Testnet) -> None:
    with socket.socket() as taken:
        taken.bind(parse_address(testnet.process("validator-0").peer))
        taken.listen()
        port = str(taken.getsockname()[1])
        refuses("node", testnet.config_path("validator-0"), port, "already in use")


@pytest.mark.parametrize("role", ROLES)
def test_a_data_directory_that_cannot_be_used(testnet: Testnet, role: Role) -> None:
    blocker = testnet.directory / "file"
    blocker.write_text("in the way")
    config = change(testnet, role, replaced("data", f'"{blocker}"'))
    refuses(role, config, str(blocker), "not a directory")
    change(testnet, role, replaced("data", f'"{blocker}/below"'))
    refuses(role, config, str(blocker), "Not a directory")
    change(testnet, role, replaced("data", '"/proc/nothing-can-be-made-here"'))
    refuses(role, config, "/proc", "cannot create")


@pytest.mark.parametrize("role", ROLES)
def test_a_data_directory_of_another_chain_or_process(
    testnet: Testnet, role: Role, tmp_path: Path
) -> None:
    name = PROCESS[role]
    run_briefly(testnet, role)
    other = create_testnet(tmp_path / "other", TestnetOptions(free_ports=True, traders=1))
    shutil.rmtree(other.data_path(name), ignore_errors=True)
    shutil.copytree(testnet.data_path(name), other.data_path(name))
    refuses(role, other.config_path(name), f"data/{name}", "another chain")
    thief = next(each for each in ROLES if each != role)
    config = change(testnet, thief, replaced("data", f'"../data/{name}"'))
    refuses(thief, config, "another process of this chain")


def test_voting_state_of_another_validator(testnet: Testnet) -> None:
    run_briefly(testnet, "node")
    path = testnet.config_path("validator-1")
    path.write_text(path.read_text().replace("data/validator-1", "data/validator-0"))
    refuses("node", path, "another process of this chain")


def run_briefly(testnet: Testnet, role: Role) -> None:
    """Start a process, stop it once it serves: SIGTERM ends it with status 0."""
    name = PROCESS[role]
    process = subprocess.Popen(
        command(role, testnet.config_path(name)),
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if "ready" in line:
            break
    process.terminate()
    rest = process.communicate(timeout=DEADLINE_S)[1]
    assert process.returncode == 0, "".join(seen) + rest


def test_a_data_directory_in_use(testnet: Testnet) -> None:
    name = PROCESS["execution"]
    config = testnet.config_path(name)
    process = subprocess.Popen(
        command("execution", config),
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert any("ready" in line for line in process.stderr)
        refuses("execution", config, "in use by another process", f"pid {process.pid}")
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)


@pytest.mark.parametrize("role", ROLES)
def test_a_key_file_that_is_open_missing_or_broken(testnet: Testnet, role: Role) -> None:
    key_path = testnet.key_path(PROCESS[role])
    config = testnet.config_path(PROCESS[role])
    key_path.chmod(0o640)
    refuses(role, config, key_path.name, "open to others", "chmod 600")
    if role != "node":  # all read it in the same way
        return
    key_path.chmod(0o600)
    key_path.write_text("not hex at all\n")
    refuses(role, config, key_path.name, "64 hex digits")
    key_path.write_bytes(b"\xff" * 64)
    refuses(role, config, key_path.name, "64 hex digits")
    key_path.unlink()
    refuses(role, config, key_path.name, "No such file")


@pytest.mark.parametrize("role", [role for role in ROLES if role != "execution"])
def test_a_key_that_is_not_in_genesis(testnet: Testnet, role: Role) -> None:
    key_path = testnet.key_path(PROCESS[role])
    key_path.unlink()
    save_key(Key.generate(), key_path)
    refuses(role, testnet.config_path(PROCESS[role]), key_path.name, "in genesis")


@pytest.mark.parametrize("role", ROLES)
def test_a_genesis_file_that_is_missing_or_broken(testnet: Testnet, role: Role) -> None:
    config = testnet.config_path(PROCESS[role])
    path = testnet.genesis_path
    genesis = json.loads(path.read_bytes())
    path.write_text("{")
    refuses(role, config, "genesis", "malformed")
    if role != "node":  # all read it in the same way
        return
    path.write_text(json.dumps(genesis | {"surprise": 1}))
    refuses(role, config, "genesis", "malformed", "surprise")
    path.write_text(json.dumps(genesis | {"validators": []}))
    refuses(role, config, "genesis", "validators")
    market = genesis["markets"][0] | {"initial_ppm": 0}
    path.write_text(json.dumps(genesis | {"markets": [market]}))
    refuses(role, config, "genesis", market["symbol"], "margin")
    path.unlink()
    refuses(role, config, str(path.name), "No such file")


def test_a_place_that_genesis_does_not_have(testnet: Testnet) -> None:
    config = change(testnet, "node", replaced("index", "9"))
    refuses("node", config, "genesis has 4 node(s), none at 9")
    more = json.loads(testnet.genesis_path.read_bytes())
    key = Key.generate()
    more["sequencers"] = more["sequencers"] + [
        more["sequencers"][0] | {"name": "sequencer-1", "public_key": key.public.hex()}
    ]
    testnet.genesis_path.write_text(json.dumps(more))
    config = testnet.config_path("sequencer-0")
    text = re.sub(r"(?ms)^\[\[peers\]\].*", "", config.read_text())
    config.write_text(text)
    refuses("sequencer", config, "one of 2 sequencers needs peer_listen")


@pytest.mark.parametrize("role", ROLES)
def test_the_command_line_without_a_configuration(role: Role) -> None:
    ended = subprocess.run(
        command(role, Path())[:-2],
        cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "--config" in ended.stderr and "Traceback" not in ended.stderr
