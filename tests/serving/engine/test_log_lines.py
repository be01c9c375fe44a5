"""vLLM's log as lines and as a file, whatever bytes it holds, however they arrive, and whatever becomes of the disk."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.terminal import sanitize
from serving.engine import log_lines
from serving.engine.log_file import LogFile
from serving.engine.log_lines import LINE_BYTES, LineReader, read_lines

if TYPE_CHECKING:
    from pathlib import Path

LOGS = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.sampled_from([b"\n", b"\r", b"\r\n", b"load 1%\rload 2%", b"\x1b[31m", b"\x9b2J", b"\xe2\x80\xae", b" "]),
    ),
    max_size=30,
).map(b"".join)


def lines_of(pieces: list[bytes]) -> list[str]:
    reader = LineReader()
    return [line for piece in pieces for line in reader.feed(piece)] + list(reader.close())


def plainly(log: bytes) -> list[str]:
    """Return the lines as one would write it down for a log that is all there and short."""
    shown = []
    for raw in log.split(b"\n"):
        states = [sanitize(state.decode("utf-8", "replace")).rstrip() for state in raw.split(b"\r")]
        shown += [state for state in states if state][-1:]
    return shown


@given(LOGS, st.data())
def test_any_log_under_any_cut_gives_the_lines_that_it_has(log: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=10)))
    pieces = [log[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(log)], strict=True)]
    lines = lines_of(pieces)
    assert lines == plainly(log)
    assert all(line == sanitize(line) and "\n" not in line for line in lines)


@given(st.integers(0, 3 * LINE_BYTES), st.integers(1, 100_000))
def test_a_line_of_any_length_is_kept_to_a_bound_and_says_what_is_lost(length: int, piece: int) -> None:
    reader = LineReader()
    for begin in range(0, length, piece):
        assert not list(reader.feed(b"x" * min(piece, length - begin)))
        assert len(reader._state) <= LINE_BYTES
    lines = list(reader.feed(b"\nnext\n"))
    assert lines[-1] == "next"
    if length > LINE_BYTES:
        assert lines[0] == "x" * LINE_BYTES + f" ... ({length - LINE_BYTES:,} bytes more)"
    else:
        assert lines[:-1] == ["x" * length][: length > 0]


def test_a_bar_that_redraws_for_ever_takes_no_memory() -> None:
    reader = LineReader()
    for percent in range(20_000):
        assert not list(reader.feed(f"loading {percent}\r".encode()))
    assert len(reader._state) == 0
    assert list(reader.close()) == ["loading 19999"]


def test_a_pipe_is_read_to_its_end_and_a_line_is_there_when_it_is_written() -> None:
    reading, writing = os.pipe()
    seen: list[str] = []
    came = threading.Event()

    def read() -> None:
        for line in read_lines(reading):
            seen.append(line)
            came.set()

    thread = threading.Thread(target=read)
    thread.start()
    os.write(writing, b"first\nsec")
    assert came.wait(20)
    assert seen == ["first"]
    os.write(writing, b"ond")
    os.close(writing)
    thread.join(20)
    os.close(reading)
    assert seen == ["first", "second"]
    assert log_lines.LINE_BYTES < 1 << 20


class Disk:
    """A file whose disk is full while `room` is None, and takes so many bytes of a write else."""

    def __init__(self) -> None:
        self.room: int | None = 1 << 20
        self.data = b""

    def write(self, data: bytes) -> int:
        if self.room is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.data += data[: self.room]
        return min(self.room, len(data))


def test_what_a_full_disk_took_is_told_once_each_time_and_marked_in_the_file(tmp_path: Path) -> None:
    told: list[str] = []
    log = LogFile(tmp_path / "log", told.append)
    log.close()
    log._file = disk = Disk()  # type: ignore[assignment]
    for room, lines in ((1 << 20, 1), (None, 3), (1 << 20, 2), (2, 1), (1 << 20, 1)):
        disk.room = room
        for number in range(lines):
            log.write(f"line {number}")
    assert [sentence.count("SERVE_LOG_FILE") for sentence in told] == [1, 1]
    assert "No space left on device" in told[0]
    assert disk.data.decode().splitlines() == [
        "line 0",
        "",
        "[lines missing here, which could not be written: 3]",
        "line 0",
        "line 1",
        "li",
        "[lines missing here, which could not be written: 1]",
        "line 0",
    ]


@pytest.mark.parametrize("text", ["plain", "\ud800 half a pair", "\N{GREEK SMALL LETTER ALPHA}"])
def test_any_text_can_be_written(tmp_path: Path, text: str) -> None:
    log = LogFile(tmp_path / "log", pytest.fail)
    log.write(text)
    log.close()
    assert (tmp_path / "log").read_bytes().endswith(b"\n")
