"""Record a run in a terminal of 80 columns and draw it as an animated picture, docs/session.svg.

python scripts/record_session.py
python scripts/record_session.py --command "python -m grpo.train seed=1" --out session.svg

The command really runs, in a pseudo-terminal; the picture has what that terminal showed, at its times. It is one SVG
file without scripts, in the colours of the reader's scheme, light or dark.
"""

import argparse
import fcntl
import os
import pty
import shlex
import struct
import sys
import termios
import time
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

import pyte

COLUMNS, ROWS = 80, 26
CELL_WIDTH, LINE_HEIGHT, BASELINE, MARGIN = 8.4, 18, 13, 14
FRAME_SECONDS = 0.4  # at least, between two frames
MOST_FRAMES = 70
LAST_SCREEN_SECONDS = 8.0  # for the last screen, before the animation starts again
# pyte's names of the 16 colours -> light, dark; the terminal has no others.
COLOURS = {
    "default": ("#1f2328", "#d7dde4"),
    "black": ("#c9d1d9", "#3d444d"),
    "brightblack": ("#6e7781", "#8b949e"),
    "red": ("#cf222e", "#ff7b72"),
    "green": ("#1a7f37", "#56d364"),
    "brown": ("#9a6700", "#e3b341"),  # yellow
    "blue": ("#0969da", "#79c0ff"),
    "magenta": ("#8250df", "#d2a8ff"),
    "cyan": ("#0b7285", "#56d4dd"),
    "white": ("#57606a", "#c9d1d9"),
}
BACKGROUND, BORDER = ("#ffffff", "#0d1117"), ("#d0d7de", "#30363d")

Style = tuple[str, bool, bool]  # colour, bold, italic
Line = tuple[tuple[int, str, Style], ...]  # column, text and style of each piece


@dataclass(frozen=True)
class Frame:
    """What the terminal showed from `seconds` on."""

    seconds: float
    lines: tuple[Line, ...]


def record(command: list[str], shown: str) -> list[tuple[float, bytes]]:
    """Run `command` in a pseudo-terminal; what it writes, with the seconds since its start, after a prompt and `shown`.

    The process exits if the command fails.
    """
    pid, terminal = pty.fork()
    if not pid:
        # A terminal of 16 colours: the picture gives each its own in a light and in a dark scheme.
        for name in ("COLUMNS", "LINES", "COLORTERM", "NO_COLOR", "FORCE_COLOR"):
            os.environ.pop(name, None)
        os.environ["TERM"] = "xterm"
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    started = time.monotonic()
    written = [(0.0, f"$ {shown}\r\n".encode())]
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux reports the end of a pseudo-terminal as an error
            data = b""
        if not data:
            break
        written.append((time.monotonic() - started, data))
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        sys.exit(
            f"{shlex.join(command)} failed with exit code {code}:\n{b''.join(text for _, text in written).decode()}"
        )
    return [*written, (time.monotonic() - started, b"$ ")]


def read_screen(screen: pyte.Screen) -> tuple[Line, ...]:
    """The lines of the screen as pieces of one style each."""
    lines: list[Line] = []
    for row in range(ROWS):
        cells = [screen.buffer[row][column] for column in range(COLUMNS)]
        pieces: list[tuple[int, str, Style]] = []
        column = 0
        for style, group in groupby(cells, lambda cell: (cell.fg.replace("bright", ""), cell.bold, cell.italics)):
            text = "".join(cell.data for cell in group)
            pieces.append((column, text, style))
            column += len(text)
        while pieces and not pieces[-1][1].strip():
            pieces.pop()
        lines.append((*pieces[:-1], *((column, text.rstrip(), style) for column, text, style in pieces[-1:])))
    return tuple(lines)


def frames_of(written: list[tuple[float, bytes]]) -> list[Frame]:
    """The different screens, at most one in `FRAME_SECONDS`, and the last one."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    interval = max(FRAME_SECONDS, written[-1][0] / MOST_FRAMES)
    frames: list[Frame] = []

    def add(seconds: float) -> None:
        lines = read_screen(screen)
        if not frames or lines != frames[-1].lines:
            frames.append(Frame(seconds, lines))

    changed = 0.0
    for seconds, data in written:
        earliest = frames[-1].seconds + interval if frames else 0.0
        if seconds > earliest:
            add(max(changed, earliest))
        stream.feed(data)
        changed = seconds
    add(changed)
    return frames


def draw_line(line: Line) -> str:
    """A line as SVG text whose pieces start at their columns."""
    pieces = []
    for column, text, (colour, bold, italic) in line:
        names = [*([colour] if colour != "default" else []), *(["b"] if bold else []), *(["i"] if italic else [])]
        css = f' class="{" ".join(names)}"' if names else ""
        pieces.append(f'<tspan x="{column * CELL_WIDTH:g}"{css}>{escape(text, quote=False)}</tspan>')
    return "".join(pieces)


def style_sheet(keyframes: str, seconds: float) -> str:
    """The colours of both schemes, and the animation that shows one frame after the other."""

    def scheme(dark: bool) -> str:
        colours = "".join(f".{name}{{fill:{pair[dark]}}}" for name, pair in COLOURS.items() if name != "default")
        page = f".page{{fill:{BACKGROUND[dark]};stroke:{BORDER[dark]}}}"
        return f"{page}text{{fill:{COLOURS['default'][dark]}}}{colours}"

    return (
        "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace;"
        f"white-space:pre}}.b{{font-weight:bold}}.i{{font-style:italic}}{scheme(False)}"
        f"@media(prefers-color-scheme:dark){{{scheme(True)}}}"
        f".film{{animation:film {seconds:.2f}s step-end infinite}}@keyframes film{{{keyframes}}}"
        "@media(prefers-reduced-motion:reduce){.film{animation:none}}"
    )


def draw(frames: list[Frame], title: str, speed: float) -> str:
    """An SVG with the frames in a column, of which the animation shows one at a time; without animation, the last."""
    width, height = COLUMNS * CELL_WIDTH, ROWS * LINE_HEIGHT
    total = frames[-1].seconds / speed + LAST_SCREEN_SECONDS
    keyframes = "".join(
        f"{frame.seconds / speed / total:.2%}{{transform:translateY({-number * height}px)}}"
        for number, frame in enumerate(frames)
    )
    ids: dict[Line, str] = {}
    film = []
    for number, frame in enumerate(frames):
        for row, line in enumerate(frame.lines):
            if line:
                name = ids.setdefault(line, f"l{len(ids)}")
                film.append(f'<use href="#{name}" y="{number * height + row * LINE_HEIGHT + BASELINE}"/>')
    lines = "".join(f'<text id="{name}" xml:space="preserve">{draw_line(line)}</text>' for line, name in ids.items())
    outer_width, outer_height = width + 2 * MARGIN, height + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{outer_width:g}" height="{outer_height:g}" '
        f'viewBox="0 0 {outer_width:g} {outer_height:g}" role="img"><title>{escape(title)}</title>'
        f"<style>{style_sheet(keyframes, total)}</style><defs>{lines}</defs>"
        f'<rect class="page" x=".5" y=".5" width="{outer_width - 1:g}" height="{outer_height - 1:g}" rx="8"/>'
        f'<svg x="{MARGIN}" y="{MARGIN}" width="{width:g}" height="{height:g}"><g class="film" '
        f'transform="translate(0 {-(len(frames) - 1) * height})">{"".join(film)}</g></svg></svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", default="make train", help="what to run; default: make train")
    parser.add_argument("--out", type=Path, default=Path("docs/session.svg"), help="default: docs/session.svg")
    parser.add_argument("--seconds", type=float, default=24.0, help="a longer session is played faster; default: 24")
    options = parser.parse_args()
    written = record(shlex.split(options.command), options.command)
    frames = frames_of(written)
    recorded = written[-1][0]
    speed = max(1.0, recorded / options.seconds)
    title = f"A terminal: {options.command}, {recorded:.0f} seconds"
    if speed > 1:
        title += f", played {speed:.1f} times as fast"
    picture = draw(frames, title, speed)
    options.out.write_text(picture, encoding="utf-8")
    print(f"{options.out}: {title}; {len(frames)} frames, {len(picture.encode()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
