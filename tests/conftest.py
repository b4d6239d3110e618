import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import fulgur_cli  # noqa: E402

# What a shell's background job or nohup ignores, the programs under test would ignore too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run the tests that `make check` has no time for, and only those")


def pytest_collection_modifyitems(config, items):
    def chosen(item):
        return (item.get_closest_marker("long") is not None) == config.getoption("--long")

    config.hook.pytest_deselected(items=[item for item in items if not chosen(item)])
    items[:] = [item for item in items if chosen(item)]


def pytest_sessionstart(session):
    if not session.config.option.collectonly and not fulgur_cli.BINARY.exists():
        pytest.exit(f"{fulgur_cli.BINARY} is not there: `make build` builds it, FULGUR names another", returncode=2)
