"""What is loaded from files, and can tell whether its paths lead to other files now."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from hotproxy.config.certificate import Identity, identity


class FromFiles(ABC):
    """Loaded by the constructor, which a subclass calls last. Raises CertificateError."""

    __slots__ = ("_identities", "_paths")

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self.reload()

    def identities(self) -> list[Identity | None]:
        return [identity(path) for path in self._paths]

    @property
    def changed(self) -> bool:
        """Do the paths lead to other files than those that were loaded, or looked at in vain?"""
        return self.identities() != self._identities

    def reload(self) -> None:
        """Raises CertificateError, and keeps what there is."""
        self._identities = self.identities()
        self._take()

    @abstractmethod
    def _take(self) -> None:
        """Load all of it, or raise CertificateError and change nothing."""
