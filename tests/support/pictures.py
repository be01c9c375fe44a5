"""The READMEs' pictures of the page, made of a running server: `python -m tests.support.pictures [URL]`.

The picture of a load test is `make bench ARGS='... --save FOLDER'`'s own.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from urllib.request import urlopen

from client import LLMClient
from tests.support.browser import browser

FOLDER = Path(__file__).parents[2] / "serving" / "pictures"
QUESTIONS = ("What is the capital of France?", "Name three rivers of that country.")
LOAD = (1, 3, 2, 4)  # requests at once, in turn
ANSWERED = "document.querySelectorAll('.turn.assistant:not(.waiting)').length"


async def load(url: str) -> None:
    """Give the server something to show."""
    async with LLMClient(base_url=f"{url}v1", model="tryout-smollm2-135m", max_tokens=64) as client:
        for number in LOAD:
            question = [{"role": "user", "content": f"Tell me of {number} towns."}]
            await asyncio.gather(*(client.generate(question) for _ in range(number)))


def main() -> None:
    """Make the pictures."""
    url = (sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000").rstrip("/") + "/"
    urlopen(url).close()
    FOLDER.mkdir(exist_ok=True)
    with browser() as chrome:
        page = chrome.new_page(viewport={"width": 1000, "height": 640})
        page.set_default_timeout(300_000)
        page.goto(url)
        page.wait_for_selector("#question")
        for number, question in enumerate(QUESTIONS, 1):
            page.fill("#question", question)
            page.keyboard.press("Enter")
            while page.evaluate(ANSWERED) < number:
                page.wait_for_timeout(200)
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=FOLDER / "page-try.png")
        page.click("#tab-watch")
        busy = threading.Thread(target=lambda: asyncio.run(load(url)))
        busy.start()
        while busy.is_alive():
            page.wait_for_timeout(500)
        page.screenshot(path=FOLDER / "page-watch.png", full_page=True)


if __name__ == "__main__":
    main()
