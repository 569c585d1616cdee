"""Where `faults` and `peers_at_fault` are, for a suite that finds subjects and peers by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
