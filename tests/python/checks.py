"""Counting checks for the scripts beside this file: a line for each, in the words of tests/check.sh."""

import sys
import traceback

_checks = []


def check(what):
    """Marks a function as a check, run in the order of the file."""

    def mark(function):
        _checks.append((what, function))
        return function

    return mark


def main(setup):
    """Runs every check with what `setup` makes of the broker's address."""
    client = setup(sys.argv[1])
    failed = 0
    for what, function in _checks:
        try:
            function(client)
            print(f"ok      {what}", flush=True)
        except Exception:  # noqa: BLE001: whatever it is, it is shown, and the others still run
            failed += 1
            print(f"FAILED  {what}", flush=True)
            traceback.print_exc(file=sys.stdout)
    sys.exit(1 if failed else 0)
