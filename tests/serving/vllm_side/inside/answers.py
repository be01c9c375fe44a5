"""Answers of a model that was given tools, and what is text and what is a call in them. Plain data: needs nothing."""

from typing import Any

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"What {name} does.",
            "parameters": {"type": "object", "properties": {parameter: {} for parameter in parameters}},
        },
    }
    for name, parameters in {
        "get_weather": ("city", "days"),
        "get-weather": ("city",),
        "search": ("query",),
        "now": (),
    }.items()
]
PARIS = ("get_weather", {"city": "Paris"})

# What is text, to the character.
TEXTS = (
    "",
    " \n",
    "The capital is Paris.",
    "  Indented.\n\n",
    "[1] Paris is the capital",
    "[1, 2, 3]",
    "[]",
    "[[get_weather()]]",
    "[Paris](https://example.org/paris)",
    "[now()](https://example.org)",
    '[get_weather(city="Paris")] is how it is called.',
    'Let me see. [get_weather(city="Paris")]',
    'You would write get_weather(city="Paris") for that.',
    'get_weather(city="Paris") returns the weather.',
    'For the weather, call\nget_weather(city="Paris")\nand read what it says.',
    '`get_weather(city="Paris")`',
    'In Python:\n```python\n[get_weather(city="Paris")]\n```\nThat is all.',
    'In Python:\n```python\nget_weather(city="Paris")\n```',
    '```python\nimport weather\n[get_weather(city="Paris")]\n```',
    "```json\n[1, 2]\n```",
    "```tool_code\n```",
    '```tool_code\nprint("Paris")\n```',
    '```tool_code\nget_weather(city="Paris")\nThen I will answer.\n```',
    # A function that the request does not have.
    '[get_time(city="Paris")]',
    'get_weathers(city="Paris")',
    "[now(), get_time()]",
    # Broken off.
    "[",
    "[get_wea",
    "[get_weather(city=",
    '[get_weather(city="Pa',
    '[get_weather(city="Paris"',
    '[get_weather(city="Paris")',
    '[get_weather(city="Paris"), ',
    'get_weather(city="Paris',
    '```tool_code\nget_weather(city="Paris")',
    '```tool_code\nget_weather(city="Paris")\n``',
    "Here it is:\n[get_weather(days=",
    # Arguments that are no literals, or that nothing says where to put.
    "[get_weather(city=Paris)]",
    "[get_weather(city=now())]",
    "[get_weather(city=f'{x}')]",
    "[get_weather(days=1e999)]",
    "[get_weather(days=01)]",
    "[get_weather(city={1: 2})]",
    "[now(1)]",
    "[get_weather('Paris', city='Rome')]",
    "[get_weather(city='Paris', city='Rome')]",
    '[get_weather(city="Paris" days=1)]',
    "[get_weather(city='Paris'}]",
    "[get_weather(city=" + "[" * 40 + "]" * 40 + ")]",
)

# What holds calls: the answer, its text (None: no text), its calls.
CALLS = (
    ('[get_weather(city="Paris")]', None, [PARIS]),
    (' \n[get_weather(city="Paris")]\n\n', None, [PARIS]),
    ("[ get_weather ( city = 'Paris' , ) , ]", None, [PARIS]),
    ('[get_weather(city="Paris"), now()]', None, [PARIS, ("now", {})]),
    ('[\n  get_weather(\n    city="Paris",\n  ),\n  now(),\n]', None, [PARIS, ("now", {})]),
    ('[get_weather(city="Paris")]\n[now()]', None, [PARIS, ("now", {})]),
    ('[get-weather(city="Paris")]', None, [("get-weather", {"city": "Paris"})]),
    # Bare, and fenced.
    ('get_weather(city="Paris")', None, [PARIS]),
    ('get_weather(city="Paris"); now()', None, [PARIS, ("now", {})]),
    ('get_weather(city="Paris")\nnow()\n', None, [PARIS, ("now", {})]),
    ('get-weather(city="Paris")', None, [("get-weather", {"city": "Paris"})]),
    ('```tool_code\nget_weather(city="Paris")\n```', None, [PARIS]),
    ('```tool_code\r\n[get_weather(city="Paris")]\r\n```\r\n', None, [PARIS]),
    ('```tool_code\n# First the weather.\nget_weather(city="Paris")\n\nnow()\n```', None, [PARIS, ("now", {})]),
    ('```python\n[get_weather(city="Paris")]\n```', None, [PARIS]),
    ('```\nget_weather(city="Paris")\n```', None, [PARIS]),
    ('```json\n[get_weather(city="Paris")]\n```', None, [PARIS]),
    ('```tool_code get_weather(city="Paris") ```', None, [PARIS]),
    # Beside text.
    ('I will look.\n[get_weather(city="Paris")]', "I will look.\n", [PARIS]),
    ('I will look.\n\n```tool_code\nget_weather(city="Paris")\n```', "I will look.\n\n", [PARIS]),
    ('```tool_code\nget_weather(city="Paris")\n```\nOne moment.', "One moment.", [PARIS]),
    ('get_weather(city="Paris")\n\nOne moment.', "\nOne moment.", [PARIS]),
    ('An example:\n```\nx = 1\n```\n[get_weather(city="Paris")]', "An example:\n```\nx = 1\n```\n", [PARIS]),
    # Arguments of every kind.
    ('[get_weather(city="Pa\nris")]', None, [("get_weather", {"city": "Pa\nris"})]),
    ('[get_weather(city="""Pa"\n"ris""")]', None, [("get_weather", {"city": 'Pa"\n"ris'})]),
    ("get_weather(city='Par\"is')", None, [("get_weather", {"city": 'Par"is'})]),
    (r'[search(query="a\"b\\c\n\td\u00e9\ud83d\ude00\d")]', None, [("search", {"query": 'a"b\\c\n\tdé😀\\d'})]),
    ('[search(query="[now()]")]', None, [("search", {"query": "[now()]"})]),
    ('[search(query="```")]', None, [("search", {"query": "```"})]),
    ('[search(query="")]', None, [("search", {"query": ""})]),
    ('[get_weather("Paris", 3)]', None, [("get_weather", {"city": "Paris", "days": 3})]),
    ('[get_weather("Paris", days=3)]', None, [("get_weather", {"city": "Paris", "days": 3})]),
    (
        "[search(from='a', class=\"b\", page-size=10, is=None, not=null)]",
        None,
        [("search", {"from": "a", "class": "b", "page-size": 10, "is": None, "not": None})],
    ),
    (
        "[search(a=True, b=true, c=False, d=false, e=-1, f=2.5, g=1e3, h=-.5, i=1_000)]",
        None,
        [
            (
                "search",
                {"a": True, "b": True, "c": False, "d": False, "e": -1, "f": 2.5, "g": 1000.0, "h": -0.5, "i": 1000},
            )
        ],
    ),
    (
        "[search(where={'a': [1, {\"b\": (2, 3)}], 'c': {}, 'd': [[], None]},)]",
        None,
        [("search", {"where": {"a": [1, {"b": [2, 3]}], "c": {}, "d": [[], None]}})],
    ),
)
