"""What stands in the pages: the blocks below their headings."""

import re

from throwaway import PROJECT


def page(name):
    return (PROJECT / name).read_text()


def section(text, heading):
    """What stands below a heading, up to the next one that is not below it."""
    level = heading.split()[0]
    return re.split(rf"^#{{1,{len(level)}}} ", text.split(f"\n{heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def blocks(text, kind):
    """The blocks of a kind, wherever they are indented to."""
    found = re.findall(rf"^( *)```{kind}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]
