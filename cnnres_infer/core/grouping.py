"""Saying a thing once for all that it is true of."""

from collections.abc import Hashable, Iterable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def group_names(items: Iterable[tuple[str, K]]) -> dict[K, list[str]]:
    """Names by what is said of them, such as a reason; both in the order in which they come."""
    groups: dict[K, list[str]] = {}
    for name, said in items:
        groups.setdefault(said, []).append(name)
    return groups
