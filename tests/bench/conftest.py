"""The benchmarks stand beside the package, not in it: the checkout's root goes on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
