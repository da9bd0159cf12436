"""Is anything lost or doubled while the sink is killed again and again? `python tests/benchmarks/pipeline_loss.py`.

Real Collectors (`make collector`), Jaeger (`make jaeger`), telemetrygen (`make telemetrygen`) and PostgreSQL. The books
are printed; the exit status is 1 when a call is missing or there twice.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from loss_run import run


def main() -> int:
    """Run it once and print the books; return 1 when something is lost or doubled."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--spans", type=int, default=100_000)
    arguments.add_argument("--kills", type=int, default=20, help="of the sink; half way, gateway and database go once")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="elf-loss-") as folder:
        books = run(Path(folder), options.spans, options.kills)
    for field in fields(books):
        value = getattr(books, field.name)
        print(f"{field.name:<18} {value:>10,.0f}")
    print("every call is there once" if books.whole else "the books do not balance")
    return int(not books.whole)


if __name__ == "__main__":
    sys.exit(main())
