"""What `make audit-dependencies` says for what a database of vulnerabilities answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "audit_dependencies.py"

RIGHT = {"name": "aiohttp", "version": "3.9.0", "vulns": []}
VULNERABLE = {
    "name": "aiohttp",
    "version": "3.9.0",
    "vulns": [
        {"id": "PYSEC-2024-24", "fix_versions": ["3.9.2"], "aliases": [], "description": "."},
        {"id": "PYSEC-2024-99", "fix_versions": [], "aliases": [], "description": "."},
    ],
}
UNKNOWN = {"name": "msgspec", "skip_reason": "Dependency not found on PyPI"}
TIP = "ERROR:pip_audit._cli:Tip: your network may be blocking this service. Try another service"

TOOL = """#!{python}
import json, sys

arguments = sys.argv[1:]
assert arguments[:2] == ["-m", "pip_audit"], arguments
lock = arguments[arguments.index("-r") + 1]
assert "aiohttp" in open(lock).read(), "the lock is not handed on"
service = arguments[arguments.index("--vulnerability-service") + 1]
out, err, status = json.loads({answers!r})[service]
print(err, file=sys.stderr)
print(out)
sys.exit(status)
"""


def found(*packages: dict[str, Any]) -> tuple[str, str, int]:
    """What pip-audit prints, and how it exits, for packages as it describes them."""
    known = any(package.get("vulns") for package in packages)
    return json.dumps({"dependencies": packages, "fixes": []}), "", int(known)


def failed(*lines: str) -> tuple[str, str, int]:
    """A database that does not answer."""
    return "", "\n".join(lines), 1


def audit(base: Path, **answers: tuple[str, str, int]) -> tuple[int, str, str]:
    """Status, stdout and stderr of the script beside a tool that answers so by service."""
    tool = base / "environment" / "bin" / "python"
    tool.parent.mkdir(parents=True)
    tool.write_text(TOOL.format(python=sys.executable, answers=json.dumps(answers)))
    tool.chmod(0o755)
    return run(base, base / "environment")


def run(base: Path, environment: Path) -> tuple[int, str, str]:
    """The script with an environment."""
    lock = base / "requirements.lock"
    lock.write_text("aiohttp==3.9.0\nmsgspec==0.18.6\n")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(environment), str(lock)], capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def test_a_vulnerable_pin_is_named_with_the_version_that_mends_it(tmp_path: Path) -> None:
    status, out, _ = audit(tmp_path, pypi=found(VULNERABLE))
    assert status == 1
    assert "aiohttp 3.9.0: PYSEC-2024-24, mended in 3.9.2" in out
    assert "aiohttp 3.9.0: PYSEC-2024-99, mended in no version yet" in out
    assert "1 packages asked for at pypi, known vulnerabilities: 2" in out


def test_nothing_known_is_a_success(tmp_path: Path) -> None:
    status, out, err = audit(tmp_path, pypi=found(RIGHT))
    assert (status, err) == (0, "")
    assert "known vulnerabilities: 0" in out


def test_a_package_that_the_database_does_not_know_is_no_success(tmp_path: Path) -> None:
    status, out, _ = audit(tmp_path, pypi=found(RIGHT, UNKNOWN))
    assert status == 3
    assert "not known to the database: msgspec" in out


def test_a_vulnerable_pin_weighs_more_than_an_unknown_one(tmp_path: Path) -> None:
    assert audit(tmp_path, pypi=found(VULNERABLE, UNKNOWN))[0] == 1


def test_a_mirror_without_answers_is_passed_over_for_the_next_database(tmp_path: Path) -> None:
    status, out, _ = audit(tmp_path, pypi=found(UNKNOWN), osv=found(VULNERABLE))
    assert status == 1 and "asked for at osv" in out


def test_without_a_database_it_says_so_and_why(tmp_path: Path) -> None:
    status, out, err = audit(
        tmp_path, pypi=found(UNKNOWN), osv=failed("ERROR: cannot connect to api.osv.dev", TIP)
    )
    assert (status, out) == (3, "")
    assert "no database of vulnerabilities could be asked" in err
    assert "pypi: it knows none of the packages" in err
    assert "osv: ERROR: cannot connect to api.osv.dev" in err and "Tip" not in err


def test_an_environment_without_the_tool_is_named(tmp_path: Path) -> None:
    status, _, err = run(tmp_path, tmp_path / "nowhere")
    assert status == 3 and "Traceback" not in err
    assert "nowhere" in err
