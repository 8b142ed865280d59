"""``python -m tests.bench NAME [options]`` runs one benchmark; without a name it lists them."""

import importlib
import pkgutil
import sys

from tests import bench

_NO_BENCHMARK = {"__main__", "delay", "support"}


def main() -> None:
    """Runs the named benchmark."""
    names = sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if m.name not in _NO_BENCHMARK)
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"usage: python -m tests.bench {{{'|'.join(names)}}} [options]")
    importlib.import_module(f"tests.bench.{sys.argv[1]}").main(sys.argv[2:])


main()
