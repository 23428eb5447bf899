"""What the site changes of its pages: formulas of notebooks, links of files outside `docs/`."""

import pathlib
import re

from latex2mathml.converter import convert

ROOT = pathlib.Path(__file__).parents[2]
AS_IT_IS = r"<(pre|script|style|code|svg)\b.*?</\2>|<[^>]*>"
FORMULA = re.compile(rf"({AS_IT_IS})|\$([^$<>\n]+)\$", re.DOTALL)
MATHJAX = re.compile(r"<!-- Load mathjax -->.*?<!-- End of mathjax conf\w+ -->", re.DOTALL)


def on_page_markdown(markdown, page, **_):
    """Returns the text of a page; a file of the root has its links as seen from `docs/`.

    Links to it in the repository become links to its page.
    """
    for name in re.findall(r"^--8<-- \"(\w+\.md)\"$", markdown, re.MULTILINE):
        markdown = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
    return markdown.replace("](../CONTRIBUTING.md)", "](contributing.md)")


def on_page_content(html, page, **_):
    """Returns the HTML of a page; `$...$` in a notebook becomes MathML.

    Browsers draw it without a program from another host.
    """
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    html = MATHJAX.sub("", html)
    return FORMULA.sub(lambda found: found[1] or convert(_unescaped(found[3])), html)


def _unescaped(text):
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
