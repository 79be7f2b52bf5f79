"""`template`: any file at all, written from a Jinja2 template: rclone.conf, .s3cfg, properties.

Needs Jinja2: `pip install 'rekeyd[template]'`. The whole file is rekeyd's. To read the pair back,
the template is rendered with two markers, and what stands around them tells where id and secret
stand in the file; the file then must be, to the byte, what the template makes of the pair that was
found. So a changed template is delivered anew, and nothing needs to be kept beside the file. It
works for every template that writes both as they are; where one changes them (a filter such as
`urlencode`), the sink is write-only, and what it holds is followed by rekeyd's own ledger.

    - type: template
      path: /srv/backup/rclone.conf
      template: |
        [backup]
        type = s3
        access_key_id = {{ access_key_id }}
        secret_access_key = {{ secret_access_key }}
"""

import re
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from rekeyd.errors import Refused, Transient
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks._atomic import AtomicFile
from rekeyd.sinks._file import SPECIMEN, FileSettings, FileSink, absolute
from rekeyd.sinks._value import pick
from rekeyd.sinks.base import SinkContext, SinkSettings, digest

MARKERS = AccessPair("REKEYDMARKSTHEKEYID0", Secret("rekeydMarksTheSecretHere0123456789abcdef"))

TRICKY = AccessPair("AKIAABCDEFGHIJKLMNOP", Secret("QRSTUVWXYZ/+=/+=0123456789abcdefghi"))
"""A pair that a template can only carry unchanged by writing it as it is."""


class Template(FileSettings):
    """A file of its own, rendered from a Jinja2 template. Needs `rekeyd[template]`."""

    type: Literal["template"]
    template: str | None = Field(
        None,
        min_length=1,
        description="The template. Variables: access_key_id, secret_access_key, identity.",
        examples=["access_key_id = {{ access_key_id }}"],
    )
    template_file: Annotated[str, AfterValidator(absolute)] | None = Field(
        None, description="Or a file that holds the template, read at each look."
    )

    @model_validator(mode="after")
    def _one(self) -> "Template":
        if (self.template is None) == (self.template_file is None):
            raise ValueError("set either `template` or `template_file`")
        return self

    def open(self, context: SinkContext) -> Sink:
        source = Source(context.identity, self.template, self.template_file)
        return TemplateSink(self, self.file(), source)


class Source:
    """A template and the identity that it is rendered for."""

    def __init__(self, identity: str, text: str | None, path: str | None) -> None:
        self._identity = identity
        self._text = text
        self._path = path

    def render(self, pair: AccessPair) -> str:
        """Render the template. Raises `Refused`, in detail only where no secret can stand."""
        text, environment = self.text(), self._environment
        try:
            rendered = environment.from_string(text).render(
                access_key_id=pair.key_id,
                secret_access_key=pair.secret.reveal(),
                identity=self._identity,
            )
            rendered.encode()  # there are characters that no file can hold
        except Exception as error:  # noqa: BLE001 - a template can fail in any way
            what = str(error) if pair is SPECIMEN else type(error).__name__
            line = f", line {error.lineno}" if hasattr(error, "lineno") else ""
            raise Refused(
                f"the template cannot be rendered: {what}{line}",
                "mend the template; it may use access_key_id, secret_access_key and identity",
                reason="sink",
            ) from None
        return str(rendered)

    def written(self, pair: AccessPair) -> str:
        """Render it for the file. Raises `Refused` also when id or secret makes no difference.

        So an editor that empties the template before it saves it empties no consumer's file.
        """
        rendered = self.render(pair)
        others = AccessPair(MARKERS.key_id, pair.secret), AccessPair(pair.key_id, MARKERS.secret)
        if rendered in map(self.render, others):
            raise Refused(
                "the template leaves out the id or the secret, so its readers would get no pair",
                "mend the template; it has to write access_key_id and secret_access_key",
                reason="sink",
            )
        return rendered

    def pair_in(self, text: str) -> AccessPair | None:
        """Find the pair from which the template makes just this text."""
        found = self._pattern().fullmatch(text)
        if found is None:
            return None
        pair = pick(found.groupdict(), "id", "secret")
        return pair if pair and self.render(pair) == text else None

    def transparent(self) -> bool:
        """Tell whether `pair_in` can undo `render`. Raises `Refused` when nothing is rendered."""
        found = self.pair_in(self.render(TRICKY))
        return found is not None and found.fingerprint() == TRICKY.fingerprint()

    def _pattern(self) -> re.Pattern[str]:
        """The text around the markers, and a group where each stands first."""
        names = {MARKERS.key_id: "id", MARKERS.secret.reveal(): "secret"}
        seen: set[str] = set()
        pattern = ""
        for piece in re.split(f"({'|'.join(names)})", self.render(MARKERS)):
            name = names.get(piece)
            if name is None:
                pattern += re.escape(piece)
            else:
                pattern += f"(?P={name})" if name in seen else rf"(?P<{name}>\S+)"
                seen.add(name)
        return re.compile(pattern)

    def text(self) -> str:
        """Return the template as it is now. Raises `Refused` when it cannot be read."""
        if self._text is not None:
            return self._text
        try:
            return Path(self._path or "").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            what = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise Refused(
                f"the template {self._path} cannot be read: {what}",
                "correct `template_file`, or let the daemon's user read it",
                reason="sink",
            ) from None

    @cached_property
    def _environment(self) -> Any:
        if find_spec("jinja2") is None:
            raise Refused(
                "the template sink needs Jinja2, which is not installed",
                "install it with `pip install 'rekeyd[template]'`",
                reason="sink",
            )
        from jinja2 import StrictUndefined  # noqa: PLC0415 - an extra
        from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415 - an extra

        return SandboxedEnvironment(
            undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
        )


class TemplateSink(FileSink):
    """A file that is all template: `rekeyd.ports.Sink`."""

    def __init__(self, settings: SinkSettings, file: AtomicFile, source: Source) -> None:
        super().__init__(settings, file, TemplateText(source))
        self._source = source

    @property
    def mark(self) -> str:
        """With the text of the template: another text is another form."""
        try:
            return digest(super().mark, self._source.text())
        except Refused:
            return super().mark  # nothing can be delivered; `check` says why

    @property
    def readable(self) -> bool:
        """Whether the template, as it is now, writes the pair as it is."""
        try:
            return self._source.transparent()
        except Refused:
            return True  # nobody can tell what the file holds; `read` says why

    def check(self) -> None:
        self._source.render(SPECIMEN)
        super().check()

    def put(self, pair: AccessPair) -> None:
        super().put(pair)
        if self._file.read() != self._edited(None, pair):
            raise Transient("the file does not hold what was written to it")


class TemplateText:
    """The text is what the template makes of a pair; nothing of what stood there is kept."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def held(self, text: str) -> AccessPair | None:
        return self._source.pair_in(text)

    def holding(self, text: str, pair: AccessPair) -> str:  # noqa: ARG002 - nothing in it is kept
        return self._source.written(pair)
