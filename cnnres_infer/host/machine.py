"""The cores, memory, processor and software versions of this machine and process."""

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
# Fields that identify the model of an x86 or ARM processor; others change all the time.
_CPU_FIELDS = {
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features",
}  # fmt: skip

# Flags in /proc/cpuinfo of the instruction sets that make INT8 and BF16 fast.
_X86_UNITS = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "BF16": {"avx512_bf16", "amx_bf16"},
    "AMX": {"amx_tile"},
}
_ARM_UNITS = {"dot product": {"asimddp"}, "I8MM": {"i8mm"}, "BF16": {"bf16"}}


def usable_cores() -> int:
    """Number of cores that this process may use, given its affinity and cgroup quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota + 0.5))) if quota else cores


def _cgroup_quota() -> float | None:
    """CPU time, in cores, that the strictest of the process's cgroups allows; None if unlimited."""
    quotas = [quota for path in _cgroup_files() if (quota := _quota(path)) is not None]
    return min(quotas, default=None)


def _cgroup_files() -> list[Path]:
    """Paths of ``cpu.max`` for the process's cgroup and all of its parents."""
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
    """Model name of the processor; may be empty where the system does not report it."""
    return _cpu().get("model name") or platform.processor()


def system() -> str:
    """Operating system and architecture, without the host name."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def present_cores() -> int:
    """Number of cores in the machine, whether this process may use them or not."""
    return os.cpu_count() or 1


def cpu_features() -> dict[str, bool]:
    """Whether the processor has each instruction set for INT8 and BF16; empty if unknown."""
    cpu = _cpu()
    flags = set(f"{cpu.get('flags', '')} {cpu.get('Features', '')}".split())
    if not flags:
        return {}
    known = _ARM_UNITS if "Features" in cpu else _X86_UNITS
    return {name: bool(flags & names) for name, names in known.items()}


def hardware() -> dict[str, Any]:
    """Describe the hardware that results may depend on: system, processor, GPUs.

    The processor and GPUs are known on Linux only; Windows reports part of the
    processor. This must stay fast, since it is called at every start.
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
            # Blank lines separate the cores, of which there may be hundreds.
            for line in takewhile(str.strip, lines):
                name, _, value = line.partition(":")
                if name.strip() in _CPU_FIELDS:
                    fields[name.strip()] = value.strip()
    except OSError:
        return {}
    return fields


def _gpus() -> list[str]:
    """Models of the NVIDIA GPUs, followed by the driver version."""
    found = []
    for path in (*sorted(_NVIDIA.glob("gpus/*/information")), _NVIDIA / "version"):
        try:
            line = path.read_text().partition("\n")[0]
        except OSError:
            continue
        found.append(" ".join(line.partition(":")[2].split()))
    return found


def resident_memory_mb() -> float | None:
    """Current resident memory of this process in MB (10^6 bytes); None if unknown."""
    return _status_mb("VmRSS:")


def resident_bytes() -> int:
    """Current resident memory of this process in bytes, or else its peak; 0 if neither is known."""
    # Where the current size is unknown, the peak errs on the safe side.
    return int((resident_memory_mb() or peak_memory_mb() or 0.0) * 1e6)


def peak_memory_mb() -> float | None:
    """Peak resident memory of this process in MB (10^6 bytes); None if unknown."""
    # Unlike the figure from getrusage, this one is not inherited from the parent process.
    recorded = _status_mb("VmHWM:")
    if recorded is not None:
        return recorded
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
    """Versions of Python and of the given distributions, leaving out those not installed."""
    found = {"python": platform.python_version()}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
