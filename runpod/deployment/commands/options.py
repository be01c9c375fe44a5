"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add what every command that shows something has."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON, the rest on stderr")


def add_changing(parser: argparse.ArgumentParser) -> None:
    """Add what every command that changes something has."""
    add_json(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")


def add_releasing(parser: argparse.ArgumentParser) -> None:
    """Add what every command that makes a release has."""
    add_changing(parser)
    parser.add_argument("--no-wait", action="store_true", help="do not wait until a worker is ready")


def add_prune_env(parser: argparse.ArgumentParser) -> None:
    """Add what says whose variables the endpoint has."""
    parser.add_argument(
        "--prune-env", action="store_true", help="remove VLLM_*, HF_* and NCCL_* that were set in RunPod's console"
    )
