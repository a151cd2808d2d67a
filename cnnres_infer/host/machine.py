"""What this machine and this process have: cores, memory, versions."""

import os
import platform
import sys
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Any

_CGROUP = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")
_CPUINFO = Path("/proc/cpuinfo")
_NVIDIA = Path("/proc/driver/nvidia")
# What tells kinds of processors apart, for x86 and ARM; the rest changes by the moment.
_CPU_FIELDS = {
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features",
}  # fmt: skip

# Names in /proc/cpuinfo of the units that make INT8 and BF16 fast.
_X86_UNITS = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "BF16": {"avx512_bf16", "amx_bf16"},
    "AMX": {"amx_tile"},
}
_ARM_UNITS = {"dot product": {"asimddp"}, "I8MM": {"i8mm"}, "BF16": {"bf16"}}


def usable_cores() -> int:
    """Cores that this process may use: by affinity and by the cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota + 0.5))) if quota else cores


def _cgroup_quota() -> float | None:
    """Cores' worth of time that the tightest of the process's cgroups allows."""
    quotas = [quota for path in _cgroup_files() if (quota := _quota(path)) is not None]
    return min(quotas, default=None)


def _cgroup_files() -> list[Path]:
    """``cpu.max`` of the process's cgroup and of all above it."""
    try:
        lines = _CGROUP.read_text().splitlines()
    except OSError:
        lines = []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/").strip("/")
    folder = _CGROUP_ROOT / own
    folders = [folder, *(up for up in folder.parents if up.is_relative_to(_CGROUP_ROOT))]
    return [up / "cpu.max" for up in folders]


def _quota(path: Path) -> float | None:
    try:
        quota, period = path.read_text().split()
        share = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def processor() -> str:
    """The processor's own name, as far as the system tells it."""
    return _cpu().get("model name") or platform.processor()


def system() -> str:
    """Operating system and architecture; not the machine's name."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def present_cores() -> int:
    """Cores that the machine has, usable by this process or not."""
    return os.cpu_count() or 1


def cpu_features() -> dict[str, bool]:
    """Which units for INT8 and BF16 the processor has; empty where the system does not tell."""
    cpu = _cpu()
    flags = set(f"{cpu.get('flags', '')} {cpu.get('Features', '')}".split())
    if not flags:
        return {}
    known = _ARM_UNITS if "Features" in cpu else _X86_UNITS
    return {name: bool(flags & names) for name, names in known.items()}


def hardware() -> dict[str, Any]:
    """What the results of a computation may depend on: system, processor, GPUs.

    Processor and GPUs are told by Linux only; Windows tells a little of the
    processor. It is quick: it is asked for at every start.
    """
    return {
        "system": sys.platform,
        "architecture": platform.machine(),
        "cpu": _cpu() or {"identifier": os.environ.get("PROCESSOR_IDENTIFIER", "")},
        "gpus": _gpus(),
    }


def _cpu() -> dict[str, str]:
    """Model and features of the first core."""
    fields = {}
    try:
        with _CPUINFO.open() as lines:
            # The cores are apart by blank lines, and there may be hundreds.
            for line in takewhile(str.strip, lines):
                name, _, value = line.partition(":")
                if name.strip() in _CPU_FIELDS:
                    fields[name.strip()] = value.strip()
    except OSError:
        return {}
    return fields


def _gpus() -> list[str]:
    """Models of NVIDIA's GPUs and the version of their driver."""
    found = []
    for path in (*sorted(_NVIDIA.glob("gpus/*/information")), _NVIDIA / "version"):
        try:
            line = path.read_text().partition("\n")[0]
        except OSError:
            continue
        found.append(" ".join(line.partition(":")[2].split()))
    return found


def resident_memory_mb() -> float | None:
    """Resident memory of this process now, in MB (10^6 bytes); None where it is not told."""
    return _status_mb("VmRSS:")


def resident_bytes() -> int:
    """Bytes of memory that this process holds now, or at most held so far; 0 if neither is told."""
    # Where the system does not tell the first, the peak errs on the safe side.
    return int((resident_memory_mb() or peak_memory_mb() or 0.0) * 1e6)


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    # Unlike getrusage's, this figure is not inherited from a parent process.
    told = _status_mb("VmHWM:")
    if told is not None:
        return told
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024) / 1e6


def _status_mb(field: str) -> float | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith(field)]
    return int(sizes[0]) * 1024 / 1e6 if sizes else None


def versions(*distributions: str) -> dict[str, str]:
    """Versions of Python and of installed distributions; the absent are left out."""
    found = {"python": platform.python_version()}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
