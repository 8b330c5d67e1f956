"""`trilemma backup` and `trilemma restore`: copies of what processes keep, and the way back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.console import Json, emit, note, testnet_directory

if TYPE_CHECKING:
    from store.backup import Manifest
    from store.config import ProcessConfig

ALL = "all"
SUFFIX = ".backup"

AFTER: dict[str, tuple[str, ...]] = {
    "node": (
        "it holds no voting state: with its old key it follows and serves, and signs nothing;",
        "to validate again it needs a new key: make one with trilemma validator init NEW, and",
        "restore into NEW/data",
    ),
    "sequencer": (
        "it holds no voting state: it follows the others and serves its log, and signs nothing;",
        "genesis names the sequencers' keys, so it can never take part again",
    ),
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(backup)
    app.command()(restore)


def backup(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A process, `all`, or a process's TOML file.")],
    out: Annotated[
        Path, typer.Option("--out", help="New file; with `all` a directory; - for stdout.")
    ],
    as_json: Json = False,
) -> None:
    """Copy what a process keeps, while it runs or not; never keys, never voting states."""
    from cluster.backup import write_backup, write_backup_file
    from protocol.errors import ConfigError

    configs = _configs(testnet_directory(context), name)
    if str(out) == "-":
        if name == ALL or as_json:
            raise ConfigError("on stdout goes the backup of one process, and nothing else")
        if sys.stdout.isatty():
            raise ConfigError("a backup is no text; send it into a file")
        manifest = write_backup(configs[0], sys.stdout.buffer, configs[0].data)
        note(_line(manifest))
        return
    if name == ALL:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = []
    for config in configs:
        place = out / f"{config.name}{SUFFIX}" if name == ALL else out
        manifest = write_backup_file(config, place)
        made.append((place, manifest))
        if not as_json:
            print(f"{_line(manifest)}: {place} ({place.stat().st_size:,} bytes)", flush=True)
    if as_json:
        emit({"backups": [_data(place, each) for place, each in made]}, "", as_json=True)


def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    data: Annotated[Path, typer.Option("--data", help="New or empty directory.")],
    as_json: Json = False,
) -> None:
    """Put a backup into an empty data directory, after a look at every byte of it."""
    from store.backup import restore as put

    manifest = put(file, data)
    lines = [f"{_line(manifest)}, restored into {data}", *AFTER.get(manifest.role, ())]
    emit(_data(data, manifest), "\n".join(lines), as_json=as_json)


def _configs(directory: Path, name: str) -> list[ProcessConfig]:
    from store.config import load_config
    from store.testnet import Testnet

    if name.endswith(".toml"):
        return [load_config(Path(name))]
    testnet = Testnet.load(directory)
    names = [one.name for one in testnet.processes] if name == ALL else [testnet.process(name).name]
    return [load_config(testnet.config_path(one)) for one in names]


def _line(manifest: Manifest) -> str:
    heights = ", ".join(f"{store} {height}" for store, height in manifest.heights.items())
    return f"{manifest.name} ({manifest.role}), {heights}"


def _data(path: Path, manifest: Manifest) -> dict[str, Any]:
    import msgspec

    return {"path": str(path), **msgspec.to_builtins(manifest)}
