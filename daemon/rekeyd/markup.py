"""HTML and SVG in which every text is escaped unless it was made here."""

from html import escape


class Markup(str):
    """Text that is markup already. Made by `tag` and `raw` only."""

    __slots__ = ()


def raw(text: str) -> Markup:
    """Take text from rekeyd's own files as markup."""
    return Markup(text)


def join(*parts: str | None) -> Markup:
    """Put parts one after the other; None is left out."""
    return Markup("".join(_escaped(part) for part in parts if part is not None))


def tag(name: str, *parts: str | None, **attributes: str | None) -> Markup:
    """Make an element. `class_` is `class`, and `_` is `-`; an attribute of None is left out."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{pairs}>{join(*parts)}</{name}>")


def _escaped(part: str) -> str:
    return part if isinstance(part, Markup) else escape(part)
