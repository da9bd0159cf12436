"""N processes of one sink on the same ports: the kernel spreads connections, this process watches over them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Semaphore
from types import FrameType
from typing import Final

from elf_automations.sink.accounts import MULTIPROCESS_FOLDER
from elf_automations.sink.configuration import SinkConfiguration
from elf_automations.sink.http_server import bound
from elf_automations.sink.serving import Listening, serve

logger = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 1.0
_BEYOND_DRAIN_SECONDS: Final = 5.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_processes = multiprocessing.get_context("spawn")


def serve_with(workers: int, configuration: SinkConfiguration, listening: Listening | None = None) -> bool:
    """Serve with `workers` processes until SIGTERM or Ctrl-C; one that dies is started again.

    Returns whether every one of them finished in time what it was given. Raises as `serve`.
    """
    if workers == 1:
        return serve(configuration, listening)
    held = {
        name: bound(at, shared=True) for name, at in (("http", configuration.http), ("grpc", configuration.grpc)) if at
    }
    # A port chosen by the kernel must be the same for all.
    chosen = {name: replace(getattr(configuration, name), port=one.getsockname()[1]) for name, one in held.items()}
    configuration = replace(configuration, shared_ports=True, **chosen)
    folder = tempfile.mkdtemp(prefix="elf-sink-metrics-")
    os.environ[MULTIPROCESS_FOLDER] = folder
    try:
        return _Watch(workers, configuration).run(listening)
    finally:
        for one in held.values():
            one.close()
        del os.environ[MULTIPROCESS_FOLDER]
        shutil.rmtree(folder, ignore_errors=True)


class _Watch:
    def __init__(self, workers: int, configuration: SinkConfiguration) -> None:
        self._workers, self._configuration = workers, configuration
        self._running: list[BaseProcess] = []
        self._stopping = False
        # Written by the signal handler, so that whoever waits for processes wakes up.
        self._wakes, self._wake = os.pipe()

    def run(self, listening: Listening | None) -> bool:
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        ready = _processes.Semaphore(0)
        self._running = [self._start(ready) for _ in range(self._workers)]
        for _ in self._running:
            while not ready.acquire(timeout=0.2):
                if self._stopping or not all(process.is_alive() for process in self._running):
                    break
        if listening and not self._stopping:
            listening(self._configuration.http, self._configuration.grpc)
        while not self._stopping:
            wait([self._wakes, *(process.sentinel for process in self._running)])
            if not self._stopping:
                self._replace_the_dead(ready)
        return self._end()

    def _start(self, ready: Semaphore) -> BaseProcess:
        process = _processes.Process(target=_work, args=(self._configuration, ready), name="elf-telemetry sink")
        process.start()
        return process

    def _replace_the_dead(self, ready: Semaphore) -> None:
        for at, process in enumerate(self._running):
            if not process.is_alive():
                logger.error("a worker of the sink ended with code %s; another takes its place", process.exitcode)
                time.sleep(_AGAIN_SECONDS)
                self._running[at] = self._start(ready)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        os.write(self._wake, b"x")

    def _end(self) -> bool:
        for process in self._running:
            process.terminate()
        ends = time.monotonic() + self._configuration.drain_seconds + _BEYOND_DRAIN_SECONDS
        for process in self._running:
            process.join(max(0.0, ends - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        os.close(self._wake)
        os.close(self._wakes)
        # One that was ended before it could listen had taken nothing.
        return all(process.exitcode in {0, -signal.SIGTERM} for process in self._running)


def _work(configuration: SinkConfiguration, ready: Semaphore) -> None:
    threading.Thread(target=_follow_parent, name="elf-sink-parent", daemon=True).start()
    in_time = serve(configuration, lambda _http, _grpc: ready.release())
    raise SystemExit(0 if in_time else 1)


def _follow_parent() -> None:
    """End in good order when the watching process was killed: nobody else would end this one or take its place."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
