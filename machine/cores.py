"""How many cores and open files this process may use."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
OPEN_FILES = 1 << 16  # more than a run ever has


def cores() -> int:
    """The cores that are this process's: those it may run on, and no more than its share of time (at least 1).

    `taskset`, Slurm and cpusets restrict the first, containers and systemd the second, by a quota of a cgroup; a quota
    of two and a half cores counts as three.
    """
    return max(1, math.ceil(min(visible(), quota())))


def visible() -> int:
    """The cores that this process may run on, for whatever share of time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota() -> float:
    """The cores' worth of time that the cgroups of this process allow it; infinite without a limit."""
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:  # not Linux
        return math.inf
    least = math.inf
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / controllers if controllers else CGROUPS  # of the second version, which has one tree
        folder = root / own.strip("/")
        for place in (folder, *folder.parents):  # a container may see its own group as the root
            if place.is_relative_to(root):
                least = min(least, _limit(place))
    return least


def _limit(group: Path) -> float:
    """The limit of one cgroup."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            time, period = " ".join((group / name).read_text().strip() for name in names).split()
            return float(time) / float(period) if time not in ("max", "-1") else math.inf
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return math.inf


def allow_open_files() -> None:
    """Raise the number of files that may be open as far as the system lets a process do that itself.

    Every tensor that a loader process has ready is one of them, and 28 processes have more than the usual 1024.
    """
    try:
        import resource
    except ImportError:  # not Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def free_files() -> float:
    """How many more files this process may open."""
    try:
        import resource
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return math.inf if soft == resource.RLIM_INFINITY else soft - len(os.listdir("/proc/self/fd"))
    except (ImportError, OSError):  # not Linux
        return math.inf
