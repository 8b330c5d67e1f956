"""Every text file in `consensus/` is run, and must print what it says it prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from consensus_script import Script

FILES = sorted((Path(__file__).parent / "consensus").glob("*.txt"))


def play(text: str) -> str:
    """The scenario with the output that its commands print now."""
    script = Script()
    lines: list[str] = []
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("#") and not block:
            lines.append(line)
        elif line.strip():
            block.append(line)
        elif block:
            commands = block[: block.index("----")] if "----" in block else block
            lines += [*commands, "----"]
            for command in commands:
                if not command.startswith("#"):
                    lines += script.run(command)
            lines.append("")
            block = []
        elif lines and lines[-1]:
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_scenario_prints_what_it_says(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text()
    played = play(text)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(played)
    else:
        assert played == text, f"{path.name}: if this is right, pytest tests/scenarios --rewrite"


def test_there_are_enough_scenarios_and_each_says_what_it_shows() -> None:
    assert len(FILES) >= 25
    for path in FILES:
        assert path.read_text().startswith("# "), f"{path.name} opens with what it shows"
