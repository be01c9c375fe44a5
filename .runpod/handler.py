"""Where RunPod's Hub looks for a handler: the worker's is `runpod/handler.py`, and this runs it."""

import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "runpod"
sys.path.insert(0, str(FOLDER))
runpy.run_path(str(FOLDER / "handler.py"), run_name="__main__")
