"""Looks the packages of a lock up among the known vulnerabilities, with pip-audit.

    python deploy/audit_dependencies.py ENVIRONMENT LOCK

Exits with 0 where none is known, 1 where some are (they are listed, with the versions that mend
them), 3 where no database could be asked, or none about some of them.
"""

from __future__ import annotations

import json
import subprocess
import sys

TIMEOUT_S = 300
SERVICES = ("pypi", "osv")
"""Databases that pip-audit knows; the second is asked where the first does not answer."""


def ask(environment: str, lock: str, service: str) -> tuple[list[dict[str, object]] | None, str]:
    """What a database says of each package, or None and why it said nothing."""
    command = [
        f"{environment}/bin/python", "-m", "pip_audit", "-r", lock, "--disable-pip", "--no-deps",
        "--progress-spinner", "off", "--format", "json", "--timeout", "20",
        "--vulnerability-service", service,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None, f"no answer within {TIMEOUT_S} s"
    except OSError as error:
        return None, f"pip-audit cannot be run: {error}"
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        # The tool's last line may be advice on its own options.
        told = [line for line in done.stderr.strip().splitlines() if "Tip: " not in line]
        return None, (told or ["no output"])[-1]
    if all("skip_reason" in one for one in found):
        # A mirror of the index has the packages, and nothing on their vulnerabilities.
        return None, "it knows none of the packages"
    return found, ""


def main(environment: str, lock: str) -> int:
    """Ask, and print what was found; returns the exit status."""
    reasons = []
    for service in SERVICES:
        found, reason = ask(environment, lock, service)
        if found is not None:
            return show(found, service)
        reasons.append(f"{service}: {reason}")
    print(
        "no database of vulnerabilities could be asked; this needs a network.\n"
        + "\n".join(reasons),
        file=sys.stderr,
    )
    return 3


def show(found: list[dict[str, object]], service: str) -> int:
    """Print the answer; returns the exit status."""
    known = 0
    for package in found:
        for one in package.get("vulns") or []:  # type: ignore[attr-defined]
            known += 1
            mended = ", ".join(one["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {one['id']}, mended in {mended}")
    skipped = [str(one["name"]) for one in found if "skip_reason" in one]
    if skipped:
        print(f"not known to the database: {', '.join(skipped)}")
    asked = len(found) - len(skipped)
    print(f"{asked} packages asked for at {service}, known vulnerabilities: {known}")
    return 1 if known else 3 if skipped else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
