"""A result as one HTML file that needs nothing else: the picture, the table, what to know, and the JSON."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from client.terminal import sanitize_line
from serving.bench.picture import svg
from serving.bench.result import to_json
from serving.bench.table import columns, row

if TYPE_CHECKING:
    from serving.bench.result import Result

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } svg { width: 100%; height: auto } .wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; font-size: .9rem }
th, td { padding: .35rem .5rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap }
th { font-weight: 600 } .missed { color: #c4320a } .best { font-weight: 700 } pre { overflow: auto; font-size: .8rem }
"""


def page(result: Result) -> str:
    """Return the file's text; whatever a server wrote in it is escaped, and nothing in it runs or is loaded."""
    best = result.carried
    lines = []
    for level in result.levels:
        kind = "best" if level == best else "missed" if result.goal.missed(level) else ""
        cells = "".join(f"<td>{escape(sanitize_line(cell))}</td>" for cell in row(result, level))
        lines.append(f'<tr class="{kind}">{cells}</tr>')
    facts = [f"{result.model} at {result.target}", f"measured {result.made}"]
    facts += [f"commit {result.commit}"] if result.commit else []
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">""",
            f"<title>{escape(result.verdict())}</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(result.verdict())}</h1>",
            f"<p>{escape(sanitize_line(' · '.join(facts)))}</p>",
            svg(result),
            '<div class="wide"><table><thead><tr>',
            *(f"<th>{escape(head)}</th>" for head in columns(result)),
            "</tr></thead><tbody>",
            *lines,
            "</tbody></table></div>",
            *(f"<p>{escape(remark)}</p>" for remark in result.remarks()),
            f"<details><summary>JSON</summary><pre>{escape(to_json(result).decode())}</pre></details>",
            "</body></html>",
            "",
        )
    )
