"""The chat in the terminal."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from client.errors import ConfigurationError, LLMError
from client.llm import LLMClient
from client.settings import ClientSettings

if TYPE_CHECKING:
    from client.stats import Stats

HELP = """\
/reset          forget the conversation
/system TEXT    set what the model is told beforehand (without TEXT: nothing), and forget the conversation
/model NAME     ask another model (without NAME: list the server's)
/history        show the conversation
/quit           leave (or Ctrl-D); Ctrl-C stops an answer"""


class Chat:
    """Hold one conversation. `history` is the messages so far, without the system's."""

    def __init__(self, client: LLMClient, runner: asyncio.Runner) -> None:
        self.client = client
        self.history: list[dict[str, str]] = []
        self.system = ""
        self._runner = runner
        self._interactive = sys.stdin.isatty()

    def run(self) -> int:
        """Ask for questions until there are no more; return the exit status: 1 if the last one failed."""
        if self._interactive:
            with suppress(ImportError):
                import readline  # noqa: F401 - gives input() its line editing
            print(f"{self.client.model} at {self.client.base_url}. /help lists the commands.")
        failed = False
        while True:
            try:
                line = input("> " if self._interactive else "").strip()
            except EOFError:
                break
            except KeyboardInterrupt:
                print()
                continue
            if line in ("/quit", "/exit"):
                break
            if not line:
                continue
            try:
                if line.startswith("/"):
                    self.command(line)
                else:
                    self.ask(line)
                failed = False
            except LLMError as error:
                print(error, file=sys.stderr)
                failed = True
            except KeyboardInterrupt:
                print(" (stopped)")
        return int(failed and not self._interactive)

    def ask(self, question: str) -> None:
        """Print the answer as it arrives; a question whose answer failed or was stopped is forgotten."""
        asked = {"role": "user", "content": question}
        system = [{"role": "system", "content": self.system}] if self.system else []
        text, stats = self._runner.run(answer(self.client, [*system, *self.history, asked]))
        self.history += [asked, {"role": "assistant", "content": text}]
        print(_figures(stats), file=sys.stderr)

    def command(self, line: str) -> None:
        """Run a line that begins with a slash."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name == "/reset":
            self.history.clear()
        elif name == "/system":
            self.system = rest
            self.history.clear()
        elif name == "/model" and rest:
            self.client.model = rest
        elif name == "/model":
            for model in self._runner.run(self.client.models()):
                print("*" if model == self.client.model else " ", model)
        elif name == "/history":
            for message in self.history:
                print(f"{message['role']}: {message['content']}")
        else:
            print(HELP)


async def answer(client: LLMClient, messages: list[dict[str, str]]) -> tuple[str, Stats]:
    """Print an answer as it arrives; return it with its figures. Raises LLMError."""
    async with client.stream(messages) as stream:
        try:
            async for piece in stream:
                print(piece, end="", flush=True)
        finally:
            if stream.text and not stream.text.endswith("\n"):
                print()
    return stream.text, stream.stats


async def settle_model(client: LLMClient) -> None:
    """Take the server's model if it has exactly one; a server that does not say changes nothing."""
    with suppress(LLMError):
        models = await client.models()
        if len(models) == 1:
            client.model = models[0]


def main(argv: list[str]) -> int:
    """Run the program; return its exit status: 0, 1 for a failure, 2 for a setting that makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m client",
        description="Ask the endpoint that LLM_BASE_URL points to.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("question", nargs="*", help="print one answer and leave; without it, chat")
    question = " ".join(parser.parse_args(argv).question)
    try:
        with asyncio.Runner() as runner:
            client = LLMClient()
            try:
                if ClientSettings.load().model is None:
                    runner.run(settle_model(client))
                if not question:
                    return Chat(client, runner).run()
                runner.run(answer(client, [{"role": "user", "content": question}]))
            finally:
                runner.run(client.aclose())
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    except LLMError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `... | head`: nobody reads on, and Python must not complain about that when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _figures(stats: Stats) -> str:
    first = stats.time_to_first_token
    tokens = f"{'about ' if stats.estimated else ''}{stats.tokens} tokens"
    return f"[first token {first or 0:.2f} s, {stats.tokens_per_second:.1f} tokens/s, {tokens}]"
