"""Write what RunPod's Hub reads into `.runpod/`: `python runpod/hub_files.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deployment import hub

if __name__ == "__main__":
    hub.write()
