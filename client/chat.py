"""The chat in the terminal."""

from __future__ import annotations

import argparse
import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from client.console import Console, decode_argument
from client.errors import BadRequestError, ConfigurationError, LLMError, ModelNotFoundError
from client.llm import LLMClient
from client.settings import ClientSettings
from client.terminal import Sanitizer

if TYPE_CHECKING:
    from client.stats import Stats
    from client.stream import TextStream

HELP = """\
/reset          forget the conversation
/system TEXT    set what the model is told beforehand, and forget the conversation
/system         show what the model is told beforehand (/system - tells it nothing)
/model NAME     ask another model (without NAME: list the server's)
/history        show the conversation
/quit           leave, as do exit and Ctrl-D; Ctrl-C stops an answer"""

# How servers say that a conversation has outgrown the model.
_CONTEXT_FULL = re.compile(r"(?i)context|too long|too many tokens|longer than|max\w*[ _]model[ _]len|prompt.*length")


class Chat:
    """One conversation. `history` is the messages so far, without the system's."""

    def __init__(self, client: LLMClient, runner: asyncio.Runner, console: Console) -> None:
        self.client = client
        self.history: list[dict[str, str]] = []
        self.system = ""
        self._runner = runner
        self._console = console

    def run(self) -> int:
        """Ask for questions until there are no more; return the exit status: 1 if the last one failed."""
        console = self._console
        if console.interactive:
            console.show(f"{self.client.model} at {self.client.base_url}. /help lists the commands.")
        failed = False
        while True:
            try:
                line = console.read_line().strip()
            except EOFError:
                break
            except KeyboardInterrupt:
                console.show("")
                continue
            if line in ("/quit", "/exit", "quit", "exit"):
                break
            if not line:
                continue
            try:
                if re.match(r"/\w+(\s|$)", line):
                    self.command(line)
                else:
                    self.ask(line)
                failed = False
            except LLMError as error:
                console.complain(f"{error}{self._way_out(error)}")
                failed = True
            except KeyboardInterrupt:
                console.show(" (stopped)")
        return int(failed and not console.interactive)

    def ask(self, question: str) -> None:
        """Print the answer as it arrives. What was shown of it is remembered, though it was stopped or broke off."""
        asked = {"role": "user", "content": question}
        system = [{"role": "system", "content": self.system}] if self.system else []
        stream = self.client.stream([*system, *self.history, asked])
        try:
            self._runner.run(show(stream, self._console))
        finally:
            if stream.text:
                self.history += [asked, {"role": "assistant", "content": stream.text}]
        self._console.complain(_figures(stream.stats))

    def command(self, line: str) -> None:
        """Run a line that begins with a slash."""
        name, *rest = line.split(maxsplit=1)
        text = rest[0] if rest else ""
        if name == "/reset":
            self.history.clear()
        elif name == "/system" and text:
            self.system = "" if text == "-" else text
            self.history.clear()
        elif name == "/system":
            self._console.show(self.system or "The model is told nothing beforehand.")
        elif name == "/model" and text:
            self.choose_model(text)
        elif name == "/model":
            for model in self._runner.run(self.client.models()):
                self._console.show(f"{'*' if model == self.client.model else ' '} {model}")
        elif name == "/history":
            for message in self.history:
                self._console.show(f"{message['role']}: {message['content']}")
        else:
            if name != "/help":
                self._console.complain(f"There is no command {name}.")
            self._console.show(HELP)

    def choose_model(self, name: str) -> None:
        """Ask another model from now on. Raises ModelNotFoundError if the server has others only."""
        models: list[str] = []
        with suppress(LLMError):  # a server that lists none may have it all the same
            models = self._runner.run(self.client.models())
        if models and name not in models:
            raise ModelNotFoundError(
                f"The server has no model {name!r}, so {self.client.model} stays. It has: {', '.join(models)}."
            )
        self.client.model = name

    def _way_out(self, error: LLMError) -> str:
        full = isinstance(error, BadRequestError) and self.history and _CONTEXT_FULL.search(str(error))
        return " /reset forgets the conversation." if full else ""


async def show(stream: TextStream, console: Console) -> None:
    """Print an answer as it arrives, and say if it was cut. Raises LLMError."""
    safe = Sanitizer()
    async with stream:
        try:
            async for piece in stream:
                console.show(safe.feed(piece), end="")
        finally:
            if stream.text and not stream.text.endswith("\n"):
                console.show("")
    if stream.finish_reason == "length":
        console.complain(f"[cut after {stream.stats.tokens} tokens, the most that LLM_MAX_TOKENS or the model allows]")
    elif stream.finish_reason == "content_filter":
        console.complain("[cut by the server's content filter]")
    elif not stream.text:
        console.complain("[the answer has no text]")


async def settle_model(client: LLMClient) -> None:
    """Take the server's model if it has exactly one; a server that does not say changes nothing."""
    with suppress(LLMError):
        models = await client.models()
        if len(models) == 1:
            client.model = models[0]


def main(argv: list[str]) -> int:
    """Run the program; return its exit status: 0, 1 for a failure, 2 for a setting that makes no sense."""
    console = Console()
    parser = argparse.ArgumentParser(
        prog="python -m client",
        description="Ask the endpoint that LLM_BASE_URL points to.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "question",
        nargs="*",
        help="print one answer and leave; what a pipe or a file at stdin holds goes before it. "
        "Without a question: a chat, in which each line of a pipe is a question",
    )
    question = " ".join(map(decode_argument, parser.parse_args(argv).question))
    try:
        if not console.has_output:
            console.complain("stdout is closed: the answer would go nowhere.")
            return 1
        return _run(question, console)
    except ConfigurationError as error:
        console.complain(str(error))
        return 2
    except LLMError as error:
        console.complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `... | head`: nobody reads on
        console.give_up_output()
        return 1
    except OSError as error:
        console.give_up_output()
        console.complain(f"The answer cannot be written: {error}.")
        return 1


def _run(question: str, console: Console) -> int:
    with asyncio.Runner() as runner:
        client = LLMClient()
        try:
            if question:
                question = "\n\n".join(filter(None, (console.read_rest().strip(), question)))
            if ClientSettings.load().model is None:
                runner.run(settle_model(client))
            if not question:
                return Chat(client, runner, console).run()
            runner.run(show(client.stream([{"role": "user", "content": question}]), console))
        finally:
            runner.run(client.aclose())
    return 0


def _figures(stats: Stats) -> str:
    first = stats.time_to_first_token
    tokens = f"{'about ' if stats.estimated else ''}{stats.tokens} tokens"
    return f"[first token {first or 0:.2f} s, {stats.tokens_per_second:.1f} tokens/s, {tokens}]"
