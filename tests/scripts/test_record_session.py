"""The picture of a session: what the terminal showed, at its times, in a file that a page can show as an image."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"
ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
print("\\033[1mThe first\\033[0m line & <tag>")
for step in range(3):
    sys.stdout.write(f"\\r\\033[2Kstep {step} of \\033[36mthree\\033[0m")
    sys.stdout.flush()
    time.sleep(0.6)
print("\\n" + "x" * 100)
"""


def texts(picture: Path) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.parse(picture).iter(f"{SVG}text")]


def test_a_session_becomes_a_picture(tmp_path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    script = [sys.executable, str(ROOT / "scripts" / "record_session.py"), "--out", "picture.svg"]
    command = [*script, "--command", f"{sys.executable} program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("picture.svg: A terminal: "), done.stderr
    shown = texts(tmp_path / "picture.svg")
    assert {"The first line & <tag>", "step 0 of three", "step 1 of three", "step 2 of three"} <= {
        " ".join(text.split()) for text in shown
    }
    assert {"x" * 80, "x" * 20} <= set(shown)  # the terminal wraps
    failed = subprocess.run([*script, "--command", "false"], cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode == 1 and "false failed with exit code 1" in failed.stderr


def test_the_picture_in_the_readme() -> None:
    picture = ROOT / "docs" / "session.svg"
    assert picture.stat().st_size < 200_000 and "docs/session.svg" in (ROOT / "README.md").read_text()
    source = picture.read_text(encoding="utf-8")
    assert "<script" not in source and re.findall(r"https?://[^\"]+", source) == ["http://www.w3.org/2000/svg"]
    assert "prefers-color-scheme:dark" in source and "prefers-reduced-motion:reduce" in source
    shown = " ".join(texts(picture))
    for words in ("make train", "step 0, wrong", "step 100, right", "grpo.sample outputs/latest"):
        assert words in shown
