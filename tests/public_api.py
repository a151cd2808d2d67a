"""The public interface, as text: names, parameters, fields and values that others rely on.

    python -m tests.public_api > tests/public_api.txt

rewrites the record that `test_public_api.py` compares with; docs/stability.md says what a
change of it takes. Annotations are left out, since versions of Python print them differently.
"""

import enum
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import cnnres_infer
from cnnres_infer import codes, errors
from cnnres_infer.core import diffusion, provenance, result

# What is reached from a result.
REACHED = (
    result.Saved,
    diffusion.DiffusionCheck,
    provenance.Provenance,
    provenance.EngineInfo,
    provenance.Skipped,
    provenance.Verification,
    codes.Notice,
)
# Others are made by the package, and their constructors may change.
MADE_BY_USERS = ("Case", "Grid", "Limits", "Volume")
# Needed inside the package.
INTERNAL = {
    "Bundle": ("failed", "must_be_signed", "sha256", "spec", "variants"),
    "Limits": ("batch_size", "check_size"),
    "Predictor": ("engine", "limits", "selection"),
    "Probabilities": ("above",),
    "Result": ("formats", "on_demand", "saver", "sources"),
    "Volume": ("from_voxels",),
}


def names() -> list[str]:
    """Public names, each with its members: a change must be deliberate."""
    public = {name: getattr(cnnres_infer, name) for name in cnnres_infer.__all__}
    return [
        line
        for name, item in {**public, **{kind.__name__: kind for kind in REACHED}}.items()
        for line in _item(name, item)
    ]


def promises() -> list[str]:
    """Codes and errors: others may join them, but none may change."""
    classes = [
        f"{name}({', '.join(base.__name__ for base in kind.__bases__)}), status {kind.exit_status}"
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.CnnresError)
    ]
    return sorted([*classes, *codes.ErrorCode, *codes.WarningCode])


def _item(name: str, item: Any) -> Iterator[str]:
    if not inspect.isclass(item) or issubclass(item, Exception):
        yield name
        return
    yield f"{name}{_parameters(item.__init__) if name in MADE_BY_USERS else ''}"
    if issubclass(item, enum.Enum):
        yield from (f"  {member.name} = {str(member.value)!r}" for member in item)
        return
    fields = list(getattr(item, "__dataclass_fields__", ()))
    for member in dict.fromkeys([*fields, *vars(item)]):
        if not member.startswith("_") and member not in INTERNAL.get(name, ()):
            value = getattr(item, member, None)
            # Bound to its class, a class method has no `cls`.
            yield f"  {member}{_parameters(value) if callable(value) else ''}"


def _parameters(function: Any) -> str:
    """Names, kinds and defaults of parameters."""
    signature = inspect.signature(function)
    bare = [
        each.replace(annotation=inspect.Parameter.empty)
        for each in signature.parameters.values()
        if each.name != "self"
    ]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


if __name__ == "__main__":
    sys.stdout.write("\n".join([*names(), "", *promises()]) + "\n")
