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
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Final

from elf_automations.errors import ConfigurationError
from elf_automations.sink.accounts import MULTIPROCESS_FOLDER, forget_worker
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

    `listening` is told when all of them accept connections. Returns whether every one of them finished in time what it
    was given. Raises as `serve`.
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


@dataclass(slots=True, eq=False)
class _Worker:
    process: BaseProcess
    says: Connection
    ready: bool = False

    def hear(self) -> str:
        """Take its one word, when it is there; return what it found wrong with its configuration, if anything."""
        if self.ready or not self.says.poll():
            return ""
        try:
            wrong: str = self.says.recv()
        except EOFError:
            return ""
        self.ready = not wrong
        return wrong


class _Watch:
    def __init__(self, workers: int, configuration: SinkConfiguration) -> None:
        self._workers, self._configuration = workers, configuration
        self._running: list[_Worker] = []
        self._stopping = False
        # Written by the signal handler, so that whoever waits for processes wakes up.
        self._wakes, self._wake = os.pipe()

    def run(self, listening: Listening | None) -> bool:
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        self._running = [self._start() for _ in range(self._workers)]
        told = False
        while not self._stopping:
            silent = [worker.says for worker in self._running if not worker.ready]
            wait([self._wakes, *silent, *(worker.process.sentinel for worker in self._running)])
            self._hear(fatal=not told)
            if not told and all(worker.ready for worker in self._running):
                told = True
                if listening:
                    listening(self._configuration.http, self._configuration.grpc)
            if not self._stopping:
                self._replace_the_dead()
        return self._end()

    def _start(self) -> _Worker:
        hears, says = _processes.Pipe(duplex=False)
        process = _processes.Process(target=_work, args=(self._configuration, says), name="elf-telemetry sink")
        process.start()
        says.close()
        return _Worker(process, hears)

    def _hear(self, *, fatal: bool) -> None:
        """Take what workers say; while none has served, a wrong configuration ends all, later it can be mended."""
        for wrong in filter(None, [worker.hear() for worker in self._running]):
            if fatal:
                self._end()
                raise ConfigurationError(wrong)
            logger.error("a worker of the sink cannot start: %s", wrong)

    def _replace_the_dead(self) -> None:
        for dead in [worker for worker in self._running if not worker.process.is_alive()]:
            code = dead.process.exitcode
            logger.error("a worker of the sink ended with code %s; another takes its place", code)
            dead.says.close()
            if dead.process.pid is not None:
                forget_worker(dead.process.pid)
            self._running.remove(dead)
            wait([self._wakes], _AGAIN_SECONDS)
            if not self._stopping:
                self._running.append(self._start())

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        os.write(self._wake, b"x")

    def _end(self) -> bool:
        processes = [worker.process for worker in self._running]
        for process in processes:
            process.terminate()
        ends = time.monotonic() + self._configuration.drain_seconds + _BEYOND_DRAIN_SECONDS
        for process in processes:
            process.join(max(0.0, ends - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for worker in self._running:
            worker.says.close()
        os.close(self._wake)
        os.close(self._wakes)
        # One that was ended before it could listen had taken nothing.
        return all(process.exitcode in {0, -signal.SIGTERM} for process in processes)


def _work(configuration: SinkConfiguration, says: Connection) -> None:
    threading.Thread(target=_follow_parent, name="elf-sink-parent", daemon=True).start()
    try:
        in_time = serve(configuration, lambda _http, _grpc: says.send(""))
    except ConfigurationError as error:
        says.send(str(error))
        raise SystemExit(error.exit_code) from None
    raise SystemExit(0 if in_time else 1)


def _follow_parent() -> None:
    """End in good order when the watching process was killed: nobody else would end this one or take its place."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
