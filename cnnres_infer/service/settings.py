"""Settings that a platform passes to a container, checked before anything is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from cnnres_infer.core.case import Modality
from cnnres_infer.engines import AUTO
from cnnres_infer.errors import UsageError
from cnnres_infer.limits import DEFAULT_LIMITS, Limits, parse_size
from cnnres_infer.outputs.save import check_formats


@dataclass(frozen=True)
class AppSettings:
    """How one study is segmented.

    Attributes
    ----------
    modality, series, bvalue
        What to segment; see `cnnres_infer.batch.Job`.
    formats
        Outputs to write; None for the default ones.
    bundle
        Folder of the model; None for the one of the package.
    backend, precision, threads
        What computes.
    max_memory, timeout
        Limits, in bytes (a number, or a text such as ``"2G"``) and seconds.

    Raises
    ------
    UsageError
        If a setting is of the wrong type or unknown.
    """

    modality: str = "dwi"
    series: tuple[str, ...] = ()
    bvalue: float | None = None
    formats: tuple[str, ...] | None = None
    bundle: str | None = None
    backend: str = AUTO
    precision: str = AUTO
    threads: int | None = None
    max_memory: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        Modality.parse(self.modality)
        if self.formats is not None:
            check_formats(self.formats)
        _ = self.limits

    @property
    def limits(self) -> Limits:
        """The limits of the study."""
        memory, timeout = self.max_memory, self.timeout
        return Limits(DEFAULT_LIMITS.max_voxels, DEFAULT_LIMITS.max_bytes, memory, timeout)

    @property
    def bundle_path(self) -> Path | None:
        """The bundle as a path."""
        return None if self.bundle is None else Path(self.bundle)

    @classmethod
    def of(cls, content: Any, where: str) -> Self:
        """Settings from JSON.

        Parameters
        ----------
        content
            What was parsed.
        where
            Name of the file, for messages.
        """
        if not isinstance(content, Mapping):
            raise UsageError(f"{where}: the settings are {content!r}; give names and values")
        known = {each.name for each in fields(cls)}
        for name in content:
            if name not in known:
                raise UsageError(
                    f"{where}: no setting {name!r}; choose from {', '.join(sorted(known))}"
                )
        return cls(**{name: _value(name, value, where) for name, value in content.items()})


def _value(name: str, value: Any, where: str) -> Any:
    """A setting of the right type."""
    if name in ("series", "formats"):
        values = value if isinstance(value, list) else [value]
        if all(isinstance(each, str | int) and not isinstance(each, bool) for each in values):
            return tuple(str(each) for each in values)
    elif name in ("bvalue", "timeout"):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif name == "max_memory" and isinstance(value, str):
        return parse_size(value)
    elif name in ("threads", "max_memory"):
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    elif isinstance(value, str):
        return value
    raise UsageError(f"{where}: the setting {name!r} cannot be {value!r}")
