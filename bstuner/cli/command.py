"""What every command brings: its words in the help, its options, and what it does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from jsonargparse import ArgumentParser, Namespace

__all__ = ["Command"]


class Command(ABC):
    """One of the commands of `bstuner`.

    Attributes:
        name: as it is typed.
        description: the words of its help, in lines that are kept as they are.

    """

    name: ClassVar[str]
    description: ClassVar[str]

    @property
    def usage(self) -> str | None:
        """How it is typed; None for what follows from the options."""
        return None

    @abstractmethod
    def add_options(self, parser: ArgumentParser) -> None:
        """Add the options, and what else the command takes, to its parser."""

    def arrange(self, typed: Sequence[str]) -> list[str]:
        """The words that were typed behind the command's name, as its parser can read them."""
        return list(typed)

    def check(self, options: Namespace) -> None:  # noqa: B027  # not abstract: most have nothing to look at
        """Look at the options before anything runs.

        Args:
            options: as they were parsed.

        Raises:
            InvalidSetting: one of them is unreadable or out of range, which is told as wrong usage.

        """

    @abstractmethod
    def run(self, options: Namespace, typed: Sequence[str]) -> None:
        """Do what the command is for.

        Args:
            options: as they were parsed and checked.
            typed: the words behind the command's name.

        Raises:
            BstunerError: it failed, for the reason that the error tells.

        """
