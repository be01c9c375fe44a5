"""`python -m serving plan-table`: what fits on every known GPU, times 1, 2, 4 and 8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.commands.plan import add_model_arguments, settle_options
from serving.hardware.catalog import KNOWN_GPUS
from serving.hardware.gpu import Gpu, Hardware
from serving.planning.plan import make_plan
from serving.settings import ServeSettings
from serving.units import GIB

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from serving.hardware.catalog import KnownGpu
    from serving.model.facts import ModelFacts
    from serving.planning.request import PlanRequest

COUNTS = (1, 2, 4, 8)
WIDTH = 140  # where the output is no terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `plan-table`."""
    add_model_arguments(parser)
    parser.add_argument("--markdown", action="store_true", help="print the table as it stands in the README")


def run(args: argparse.Namespace) -> int:
    """Print the table; return 0. Raises ServingError."""
    settings = ServeSettings.load()
    settled = settle_options(settings, args, gpu=True)
    model, wished = settled.facts, settled.request
    header = ("GPU", "GiB", *(f"{count}x" for count in COUNTS))
    lines = list(rows(model, wished))
    if args.markdown:
        print(*markdown(header, lines), sep="\n")
        return 0
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    table = Table(
        *header, box=box.SIMPLE, title=f"{model.name}, at least {wished.context:,} tokens", title_style="bold"
    )
    for line in lines:
        table.add_row(*line)
    console.print(table)
    print("Each: precision, GPUs that share a copy (tp) times copies (dp), longest context, requests of 8k at once.")
    return 0


def rows(model: ModelFacts, wished: PlanRequest) -> Iterator[tuple[str, ...]]:
    """Yield a row for the GPUs that are planned alike: their names, their GiB, and a cell for each of COUNTS.

    Those that hold nothing, however many, are left out.
    """
    alike: dict[object, list[KnownGpu]] = {}
    for known in KNOWN_GPUS:
        alike.setdefault((known.gib, known.capability, known.unified), []).append(known)
    for group in alike.values():
        cells = [cell(model, group[0], count, wished) for count in COUNTS]
        if any(text != "-" for text in cells):
            others = (known.name.removeprefix("NVIDIA ").removeprefix("GeForce ") for known in group[1:])
            yield (", ".join((group[0].name, *others)), f"{group[0].gib:g}", *cells)


def cell(model: ModelFacts, known: KnownGpu, count: int, wished: PlanRequest) -> str:
    """Return what `count` of a GPU run: `bf16 tp2 128k 30x`, or a dash where nothing fits."""
    if known.unified and count > 1:
        return "-"
    size = int(known.gib * GIB)
    gpu = Gpu(known.name, size, size, known.capability, unified=known.unified)
    plan = make_plan(model, Hardware((gpu,) * count, source="given"), wished)
    if not plan.fits or plan.max_model_len is None:
        return "-"
    layout = f" tp{plan.tensor_parallel_size}" if (plan.tensor_parallel_size or 1) > 1 else ""
    layout += f" dp{plan.data_parallel_size}" if (plan.data_parallel_size or 1) > 1 else ""
    requests = plan.concurrency.get(8192)
    at_once = f" {requests:.0f}x" if requests is not None else ""
    return f"{plan.precision}{layout} {plan.max_model_len // 1024}k{at_once}"


def markdown(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for line in lines:
        yield f"| {' | '.join(line)} |"
