"""What this machine and this process have: cores, memory, versions."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CGROUP1_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_CGROUP1_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def usable_cores() -> int:
    """Cores that this process may use: by affinity and by the cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota + 0.5))) if quota else cores


def _cgroup_quota() -> float | None:
    try:
        if _CGROUP_QUOTA.exists():
            quota, period = _CGROUP_QUOTA.read_text().split()
        else:
            quota, period = _CGROUP1_QUOTA.read_text(), _CGROUP1_PERIOD.read_text()
        share = float(quota) / float(period)
    except (OSError, ValueError):
        return None
    return share if share > 0 else None


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024) / 1e6


def versions(*distributions: str) -> dict[str, str]:
    """Versions of Python and of installed distributions; the absent are left out."""
    found = {"python": platform.python_version()}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
