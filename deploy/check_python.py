"""Say in one sentence why this Python cannot run Trilemma; exit status 0 where it can.

Runs on any Python, old ones included, so it uses nothing new.
"""

import sys

NEEDED = (3, 11)


def trouble():
    found = ".".join(str(part) for part in sys.version_info[:2])
    values = {"found": found, "path": sys.executable or "this", "needed": "3.11"}
    if sys.version_info[:2] < NEEDED:
        return "Trilemma needs Python {needed} or newer, and {path} is Python {found}.".format(
            **values
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return (
            "Python {found} at {path} cannot make virtual environments; install its venv module "
            "(on Debian and Ubuntu: apt-get install python{found}-venv)."
        ).format(**values)
    return ""


sentence = trouble()
if sentence:
    sys.stderr.write(sentence + "\n")
    sys.exit(1)
