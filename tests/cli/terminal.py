"""A pseudo-terminal: a program in it, what is on its screen, and keys to press."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from cli.commands import HANG, environment

__all__ = ["Terminal"]

_SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")


class Screen:
    """What a terminal shows, scrolled-off lines too, as far as rich uses one."""

    def __init__(self) -> None:
        self.lines = [""]
        self._rest = ""
        self.row = self.column = 0
        self.cursor_shown = True
        self.colours = False

    def feed(self, text: str) -> None:
        # The end of what came may be the beginning of a sequence.
        text, self._rest = re.fullmatch(r"(.*?)(\x1b(?:\[[?0-9;]*)?)?", self._rest + text, re.DOTALL).groups("")
        place = 0
        while place < len(text):
            sequence = _SEQUENCE.match(text, place)
            if sequence:
                self._control(*sequence.groups())
                place = sequence.end()
                continue
            self._write(text[place])
            place += 1

    def _write(self, character: str) -> None:
        if character == "\n":
            self.row += 1
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif character == "\r":
            self.column = 0
        elif character >= " ":
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1

    def _control(self, arguments: str, command: str) -> None:
        if command == "A":
            self.row = max(0, self.row - int(arguments or 1))
        elif command == "K":
            self.lines[self.row] = "" if arguments == "2" else self.lines[self.row][: self.column]
        elif command in "hl" and arguments == "?25":
            self.cursor_shown = command == "h"
        elif command == "m":
            colours = {int(code) for code in arguments.split(";") if code}
            self.colours = self.colours or any(30 <= code < 50 or 90 <= code < 108 for code in colours)
        else:
            raise AssertionError(f"another sequence than those known here: {arguments}{command}")

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)


class Terminal:
    """A program that takes itself to be in a terminal; a context manager."""

    def __init__(self, command: Sequence[object], folder: Path, *, width: int, height: int = 30, **more: str) -> None:
        self.screen = Screen()
        self.seen: list[str] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.width = width
        self._master, worker = os.openpty()
        self.resize(width, height)
        variables = {"TERM": "xterm-256color", **more}
        clean = {name: value for name, value in environment(**variables).items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            stdin=worker,
            stdout=worker,
            stderr=worker,
            env=clean,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
        )
        os.close(worker)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def resize(self, width: int, height: int) -> None:
        self.width = width
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def go_on(self, until: Callable[[str], object] | None = None) -> str:
        """Let the program run until its screen is as wanted, or to its end; the screen."""
        end = time.monotonic() + HANG
        while not (until and until(self.screen.text())):
            assert time.monotonic() < end, self.screen.text()
            if select.select([self._master], [], [], 1.0)[0] and not self._read():
                assert until is None, self.screen.text()
                self.process.wait(HANG)
                break
        return self.screen.text()

    def _read(self) -> bool:
        try:
            # Less than a frame, so that none is passed over.
            text = self._decoder.decode(os.read(self._master, 512))
        except OSError:  # so Linux tells that nobody has it open any more
            return False
        self.screen.feed(text)
        self.seen.append(self.screen.text())
        return True
