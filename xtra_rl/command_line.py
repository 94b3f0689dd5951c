"""Command lines that answer a misspelt option, choice or command with the nearest one."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

_OPTION = re.compile(r"--?[A-Za-z][\w-]*")


class ArgumentParser(argparse.ArgumentParser):
    """``argparse.ArgumentParser`` whose errors name what was probably meant.

    A description of several lines, such as a docstring, is shown as it stands.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._words: list[str] = []
        if "\n" in (self.description or ""):
            self.formatter_class = argparse.RawDescriptionHelpFormatter

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse, and remember the words for :meth:`error`."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End with the usage, the message and the nearest option, choice or command; exit status 2."""
        meant = _near_choice(message) or self._near_option()
        super().error(f"{message}; did you mean {meant}?" if meant else message)

    def _near_option(self) -> str | None:
        """The option nearest to the first word that looks like one and is none."""
        known = set(self._options(self._words))
        given = (found[0] for found in map(_OPTION.match, self._words) if found)
        # argparse takes an option's beginning for it.
        wrong = next((name for name in given if not any(each.startswith(name) for each in known)), None)
        meant = _nearest(wrong, known) if wrong else None
        return f"{meant} instead of {wrong}" if meant else None

    def _options(self, words: Sequence[str]) -> Iterable[str]:
        """Options of this parser and of the command that the words name."""
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for name, command in action.choices.items():
                    if name in words:
                        yield from command._options(words)


def _near_choice(message: str) -> str | None:
    """The choice nearest to the one that argparse's message refuses."""
    found = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
    return _nearest(found[1], [choice.strip(" '") for choice in found[2].split(",")]) if found else None


def _nearest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, sorted(names), n=1)), None)
