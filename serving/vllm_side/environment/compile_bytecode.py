"""Compile all modules of a virtual environment, and say how far that is: `python compile_bytecode.py FOLDER`.

Run by the environment's own Python. PYTHONDONTWRITEBYTECODE does not matter here: it keeps imports from writing byte
code, not from using it. Files that are no Python 3 (templates, old tests) are left out without a word.
"""

import compileall
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

BATCH = 200


def compile_batch(paths: list[str]) -> int:
    """Compile some files; return how many there were."""
    warnings.simplefilter("ignore")  # of strings in other people's code
    for path in paths:
        compileall.compile_file(path, quiet=2)
    return len(paths)


def main(folder: Path) -> None:
    """Compile all modules below `folder`."""
    paths = sorted(str(path) for path in folder.rglob("*.py"))
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    done = 0
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for count in pool.map(compile_batch, batches):
            done += count
            print(f"compiled {done:,} of {len(paths):,} files", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
