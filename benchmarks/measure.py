"""Run a command to its end; see its seconds and its peak of memory."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_SAMPLE_SECONDS = 0.005


@dataclass(frozen=True)
class Peak:
    """Seconds from start to end, seconds of CPU, and bytes of memory at the peak.

    `anonymous` is sampled from RssAnon, `resident` is the kernel's own VmHWM.
    """

    seconds: float
    cpu: float
    anonymous: int
    resident: int


def measure(
    command: Sequence[str],
    *,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
    stdout: IO[bytes] | None = None,
    stderr: IO[bytes] | None = None,
) -> Peak:
    """Measure one process of Linux; the memory of its children is not counted.

    Raises:
        subprocess.CalledProcessError: It failed.
        subprocess.TimeoutExpired: It was ended after `timeout` seconds.
    """
    anonymous = resident = 0
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr) as process:
        while process.poll() is None:
            if timeout is not None and time.perf_counter() - start > timeout:
                process.kill()
                raise subprocess.TimeoutExpired(command, timeout)
            sizes = _status(process.pid)
            anonymous = max(anonymous, sizes.get("RssAnon", 0))
            resident = max(resident, sizes.get("VmHWM", 0))
            time.sleep(_SAMPLE_SECONDS)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Peak(seconds, cpu, anonymous, resident)


def _status(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    pairs = (line.split() for line in lines if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in pairs}
