"""What the hooks cost a webhook's caller when their receiver is dead: four real n8n side by side, called in turn.

    make e2e-n8n-time

Two have no hooks file, the second of them to show what the method itself cannot tell apart; one has hooks whose
receiver takes connections and never answers, one hooks whose receiver refuses them. Every round calls the same short
workflow once in each, in an order drawn anew. The figures are the lower quartiles of the times, their ratio to the
first, and the median of the rounds' ratios with its 95 % interval by bootstrap. Exits 1 when a median is above 1.05.
"""

from __future__ import annotations

import argparse
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from real_n8n import NODE_HOME, N8n, free_port
from real_n8n import running as n8n_running
from workflows import shape, webhook, workflow

from elf_automations.n8n import hooks_file

_WORKFLOW = "elfShort00000001"
_WARM_UP = 200
_BASE = "none"
_ALLOWED = 1.05


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    kept: list[socket.socket] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)

        def take() -> None:
            try:
                while True:
                    kept.append(listener.accept()[0])
            except OSError:
                return

        threading.Thread(target=take, daemon=True).start()
        yield listener.getsockname()[1]
    for each in kept:
        each.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n8n", type=Path, default=Path("build/n8n"))
    parser.add_argument("--rounds", type=int, default=600)
    options = parser.parse_args()
    cache = options.n8n.resolve()
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="elf-e2e-n8n-") as folder, ExitStack() as stack:
        # The shortest there is, so that whatever the hooks add is the largest share of it.
        workflows = [workflow(_WORKFLOW, "Short", webhook("success"), shape())]
        hooked = {"EXTERNAL_HOOK_FILES": str(hooks_file())}
        refusing = f"http://127.0.0.1:{free_port()}/n8n/webhook"
        unheard = f"http://127.0.0.1:{stack.enter_context(silent())}/n8n/webhook"
        started = {
            _BASE: {},
            "refusing": {**hooked, "ELF_N8N_WEBHOOK_URL": refusing},
            "silent": {**hooked, "ELF_N8N_WEBHOOK_URL": unheard},
            "none again": {},
        }
        made: dict[str, N8n] = {}
        for name, more in started.items():
            made[name] = stack.enter_context(n8n_running(cache, Path(folder) / name.replace(" ", "-"), workflows, more))
            made[name].publish(_WORKFLOW)
        _rounds(made, _WARM_UP)  # n8n's own code must be warm in all of them alike
        times = _rounds(made, options.rounds)
    columns = ("receiver", "rounds", "lower quartile", "ratio", "of rounds", "95 % interval")
    print("".join(f"{column:>16}" for column in columns))
    base = times[_BASE]
    for name, took in times.items():
        quartile, of_base = (1000 * statistics.quantiles(each, n=4)[0] for each in (took, base))
        ratio, low, high = _interval([one / other for one, other in zip(took, base, strict=True)])
        figures = (name, len(took), f"{quartile:.2f} ms", f"{quartile / of_base:.3f}", f"{ratio:.3f}")
        print("".join(f"{figure:>16}" for figure in (*figures, f"{low:.3f} to {high:.3f}")), flush=True)
        worst = max(worst, ratio if name not in {_BASE, "none again"} else 0.0)
    print(f"a call of the hook holds n8n's thread for {_hook_cost()}")
    return 0 if worst <= _ALLOWED else 1


def _hook_cost() -> str:
    here = Path(__file__).parent
    captured = here.parent / "fixtures" / "n8n" / "hooks_failure_with_error_workflow.jsonl"
    said = subprocess.run(
        [NODE_HOME / "bin" / "node", here / "hook_cost.cjs", hooks_file(), captured],
        env={"ELF_N8N_WEBHOOK_URL": f"http://127.0.0.1:{free_port()}/"},
        capture_output=True,
        text=True,
        check=True,
    )
    median, most, median_full, most_full, cpu = said.stdout.split()
    return (
        f"{median} µs (median; 99th percentile {most} µs), with a full queue {median_full} µs ({most_full} µs); "
        f"CPU time of everything it does: {cpu} µs"
    )


def _rounds(made: dict[str, N8n], count: int) -> dict[str, list[float]]:
    """How long each call took, in seconds, by n8n and round."""
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(count):
        for name in random.sample(list(made), len(made)):
            began = time.perf_counter()
            assert made[name].trigger("success").status_code == 200
            times[name].append(time.perf_counter() - began)
    return times


def _interval(ratios: list[float], draws: int = 2000) -> tuple[float, float, float]:
    """The median, and the 95 % interval of it by bootstrap."""
    random.seed(7)
    medians = sorted(statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(draws))
    return statistics.median(ratios), medians[int(0.025 * draws)], medians[int(0.975 * draws)]


if __name__ == "__main__":
    sys.exit(main())
