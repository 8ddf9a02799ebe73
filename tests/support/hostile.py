"""What a stranger may write where text is expected, each with what must not come of it."""

from __future__ import annotations

HOSTILE = {
    "element": "<img src=x onerror=alert(1)><script>alert(2)</script>",
    "end of element": "</bdi></article></style></title></textarea><svg onload=alert(3)>",
    "attribute": '" autofocus onfocus="alert(4)" x=\'',
    "entity": "&lt;script&gt;&#60;b&#62;",
    "template": "{{ 7 * 7 }}{% include '/etc/passwd' %}{# x #}",
    "address": "javascript:alert(5) https://evil.example/x www.evil.example",
    "markdown": "![x](https://evil.example/a.png) [y](javascript:z) **b** `c` | d | <details>",
    "mention": "@everyone #1 org/repo#2 $x$",
    "fence": "```\n# heading\n~~~\n",
    "command": "::error::owned\n::set-output name=a::b\n  ::add-mask::x",
    "old command": "##[error]owned ##[add-path]/tmp",
    "carriage return": "safe\r::warning::owned\r\n::notice::x",
    "escape": "\x1b[31mred\x1b]0;title\x07\x1b[2J\x9b31m",
    "bidi": "\u202eabc\u2066def\u200f\u061c",
    "nul": "a\x00b\x08c",
    "surrogate": "a\ud800b",
    "separator": "a\u2028b\u2029c\x85d\ufeff",
    "long": "A" * 10_000_000,
    "percent": "100%25 %0A::error::x",
}
FORBIDDEN = "".join(
    map(
        chr,
        (
            *range(9),
            11,
            12,
            *range(14, 32),
            127,
            *range(128, 160),
            0x202E,
            0x2066,
            0x200F,
            0x2028,
            0x2029,
        ),
    )
)
"""Characters that no report may hold."""
