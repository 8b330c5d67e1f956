"""Write ``requirements.lock`` from this environment: what pyproject.toml names, and its needs.

Markers are evaluated for every supported Python, so that one file serves them all.
"""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = (("linux", "Linux"), ("darwin", "Darwin"))
HEADER = """\
# Exact versions of everything the project installs, on Python {} to {}.
# Written from the environment by: make lock
"""


def applies(requirement: Requirement) -> bool:
    """Whether any supported Python on any supported platform needs it."""
    if requirement.marker is None:
        return True
    return any(
        requirement.marker.evaluate(
            {
                "python_version": python,
                "python_full_version": f"{python}.0",
                "sys_platform": platform,
                "platform_system": system,
                "extra": "",
            }
        )
        for python in PYTHONS
        for platform, system in PLATFORMS
    )


def closure(roots: list[str]) -> dict[str, str]:
    """Name and version of these requirements and of all they need, in this environment."""
    versions: dict[str, str] = {}
    waiting = [Requirement(root) for root in roots]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in versions or not applies(requirement):
            continue
        distribution = importlib.metadata.distribution(name)
        versions[name] = distribution.version
        waiting += [Requirement(text) for text in distribution.requires or []]
    return versions


def main() -> None:
    """Write the lock beside pyproject.toml."""
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    run = closure(project["project"]["dependencies"])
    optional = project["project"]["optional-dependencies"]
    roots = optional["dev"] + optional["pictures"] + project["build-system"]["requires"]
    develop = {name: version for name, version in closure(roots).items() if name not in run}
    lines = [HEADER.format(PYTHONS[0], PYTHONS[-1])]
    for title, versions in (("to run", run), ("to build and to develop", develop)):
        lines += [f"# {title}", *(f"{name}=={versions[name]}" for name in sorted(versions)), ""]
    (root / "requirements.lock").write_text("\n".join(lines).rstrip() + "\n")
    print(f"requirements.lock: {len(run)} packages to run, {len(develop)} more", file=sys.stderr)


if __name__ == "__main__":
    main()
