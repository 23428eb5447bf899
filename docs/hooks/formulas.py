"""Shows the formulas of notebooks as MathML, which browsers draw without a program from another host."""

import re

from latex2mathml.converter import convert

FORMULA = re.compile(r"(<(pre|script|style|code|svg)\b.*?</\2>|<[^>]*>)|\$([^$<>\n]+)\$", re.DOTALL)
MATHJAX = re.compile(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", re.DOTALL)


def on_page_content(html, page, **_):
    """Returns a page's HTML with `$...$` as MathML, outside code and tags, if it was a notebook."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    return FORMULA.sub(lambda found: found[1] or convert(_unescaped(found[3])), MATHJAX.sub("", html))


def _unescaped(text):
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
