"""Serve the reward calculator on this machine.

python -m grpo.calculator
"""

from pathlib import Path

PAGE = Path(__file__).parent / "assets" / "calculator.html"
