"""What the site changes of its pages: formulas of notebooks, and links of files that are outside `docs/`."""

import pathlib
import re

from latex2mathml.converter import convert

ROOT = pathlib.Path(__file__).parents[2]
FORMULA = re.compile(r"(<(pre|script|style|code|svg)\b.*?</\2>|<[^>]*>)|\$([^$<>\n]+)\$", re.DOTALL)
MATHJAX = re.compile(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", re.DOTALL)


def on_page_markdown(markdown, page, **_):
    """Returns the text of a page; that of a file of the repository's root, with its links as seen from `docs/`."""
    for name in re.findall(r"^--8<-- \"(\w+\.md)\"$", markdown, re.MULTILINE):
        markdown = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
    return markdown


def on_page_content(html, page, **_):
    """Returns a page's HTML; a notebook's with `$...$` as MathML, which needs no program from another host."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    return FORMULA.sub(lambda found: found[1] or convert(_unescaped(found[3])), MATHJAX.sub("", html))


def _unescaped(text):
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
