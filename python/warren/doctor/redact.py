"""What must not leave a host is taken out of text and of nested data. Pure.

By name: what stands after a name like `password` or `api_key`, or below it. By form: private keys
in PEM, who asks in URLs, bearer tokens, JSON web tokens, tokens that begin like those of GitHub or
AWS, passwords on command lines of usual programs. By value: what is known to be secret is found
wherever it stands, in a log line too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from warren.observe.secret import REDACTED

__all__ = [
    "KNOWN_MAX",
    "SHORTEST",
    "Redactor",
    "arguments_of",
    "is_secret_name",
    "without_arguments",
    "without_values",
]

SHORTEST: Final = 6
"""Shorter values are not looked for: `true` or `8080` would go wherever they stand."""

KNOWN_MAX: Final = 500
"""How many values are looked for; each costs a pass over the whole text."""

_NAME: Final = (
    r"pass(?:word|wd|phrase|code)|requirepass|masterauth|[-_.]pwd|secret|token|credential|cookie|signature|authorization|"
    r"(?:api|access|private|secret|encryption|signing)[-_. ]?key|connection[-_. ]?string"
)
# Short names count as whole words: `author` and `bypass` are none. A key of something is a secret,
# a `key` alone is that of a map.
_SECRET: Final = re.compile(
    rf"{_NAME}|(?:^|[-_. ])(?:pass|auth|dsn|salt)(?:$|[-_. ])|[^-_. ][-_. ]key$", re.IGNORECASE
)
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_HINT: Final = re.compile(rf"{_NAME}|[-_](?:key|pass|auth|dsn)\b", re.IGNORECASE)
# The daemon's own settings that name a file: their value is in a map, with where it comes from.
_PATHS: Final = frozenset({"tls_key"})
# What stands around the name has a bound, so that no text makes this slow.
_PAIR: Final = re.compile(
    rf"((?:{_NAME}|[-_](?:key|pass|auth|dsn)\b)s?(?:[-_.][\w.-]{{0,64}})?"
    r"\\?[\"']?\s{0,4}(?:=>|[=:])\s{0,4}(?:(?:bearer|basic)\s+)?+)"
    r"(?!\\?[\"']?\[redacted\])"
    r"(\[[^\]]{0,4096}\]?|\{[^}]{0,4096}\}?"
    r"|\\?\"(?:[^\"\\\n]|\\[^\"\n])*|'[^'\n]*|[^\s\"',;&}\]\\]+)",
    re.IGNORECASE,
)
# A word of a command line, without the quote that it ends with.
_WORD: Final = r"(?!\\?[\"']?\[redacted\])(\\?\"(?:[^\"\\\n]|\\[^\"\n])*|'[^'\n]*|[^\s\"'\\]+)"
# After --password and the like, in a list of words too; what begins with a dash is the next flag.
_FLAG: Final = re.compile(
    rf"((?<![\w-])--?(?:[\w.]{{0,64}}-){{0,4}}[\w.]{{0,64}}?(?:{_NAME}|\b(?:key|pass|auth|dsn)\b)"
    rf"[\w.-]{{0,64}}(?:\s{{1,4}}|\\?[\"']\s{{0,4}},\s{{0,4}}))(?!\\?[\"']?-){_WORD}",
    re.IGNORECASE,
)
# Schemes are many, and some have several parts: all of the line.
_AUTHORIZATION: Final = re.compile(
    r"(authorization\\?[\"']?\s{0,4}[:=]\s{0,4})(?!\s{0,4}\[redacted\])[^\n]+", re.IGNORECASE
)
# One whose end is missing goes as far as it may reach. Without possessive repeats of groups, which
# Python 3.11.2 gets wrong.
_PEM_TEXT: Final = r"[A-Za-z0-9+/=\s\\:,]"
_PEM: Final = re.compile(
    rf"-----BEGIN [A-Z ]{{0,40}}PRIVATE KEY-----{_PEM_TEXT}{{0,16384}}"
    rf"(?:-{_PEM_TEXT}{{1,16384}}){{0,8}}(?:-----END [A-Z ]{{0,40}}PRIVATE KEY-----)?"
)
# Up to the last @: passwords have unquoted ones, and slashes. Digits before a slash are a port.
_URL: Final = re.compile(
    r"\b([a-z][a-z0-9+.-]{0,20}://)"
    r"(?:[^/\s\"':]{0,128}:(?!\d{1,5}/)[^\s\"']{0,512}|[^/\s\"']{0,512})@",
    re.IGNORECASE,
)
# Of curl and others. Two numbers are a user and a group.
_USER: Final = re.compile(
    r"((?<!\S)(?:-u|--user|--proxy-user)[ =]{0,2}[\"']?(?!\d+:\d+\b)[^\s\"':=/]{1,128}:)"
    r"(?!\[redacted\])[^\s\"']+"
)
_SHORT_FLAG: Final = re.compile(
    r"(\b(?:sshpass(?:\s[^\n;|&]{0,256}?)?\s-p\s{0,4}"
    r"|(?:mysql|mariadb)[\w-]{0,16}\s(?:[^\n;|&]{0,256}?\s)?-p"
    rf"|redis-cli\s(?:[^\n;|&]{{0,256}}?\s)?-a\s{{1,4}}))(?!\s){_WORD}"
)
_TOKEN: Final = re.compile(
    r"\b(?:gh[oprsu]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|xox[a-z]-[\w-]{10,}|AIza[\w-]{30,}|npm_\w{30,}|hv[sb]\.[\w-]{20,}|[rs]k_live_\w{16,})"
)
_BEARER: Final = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
# Of a command: a long flag without or with a value, a short one, and what may be a program. Short
# flags may have their value without anything between.
_BARE_FLAG: Final = re.compile(r"--|-\w|--[a-zA-Z][\w.-]*")
_LONG_FLAG: Final = re.compile(r"--[a-zA-Z][\w.-]*=")
_PROGRAM: Final = re.compile(r"[\w./+-]+")
_JWT: Final = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")


def is_secret_name(name: str) -> bool:
    """Whether what has this name is taken for a secret."""
    return _SECRET.search(_CAMEL.sub("_", name)) is not None


def without_values(variables: Iterable[str]) -> list[str]:
    """Of `NAME=value` the name: any variable may hold a secret, whatever it is called."""
    return [
        f"{name}={REDACTED}" if equals else name
        for name, equals, _ in (each.partition("=") for each in variables)
    ]


def without_arguments(command: Iterable[str]) -> list[str]:
    """Of a container's command the program, if it is one, and the names of flags; of the rest,
    any word may hold a secret.
    """
    return [shown for shown, _ in _arguments(command)]


def arguments_of(command: Iterable[str]) -> list[str]:
    """What `without_arguments` does not show of a command."""
    return [hidden for _, hidden in _arguments(command) if hidden]


def _arguments(command: Iterable[str]) -> Iterator[tuple[str, str]]:
    for number, word in enumerate(command):
        flag = _LONG_FLAG.match(word)
        if not word or _BARE_FLAG.fullmatch(word):
            yield word, ""
        elif flag:
            yield f"{flag[0]}{REDACTED}", word[flag.end() :]
        elif number == 0 and _PROGRAM.fullmatch(word) and _by_form(word) == word:
            yield word, ""
        else:
            yield REDACTED, word


class Redactor:
    """Takes secrets out. `known`: values that are secret; the first KNOWN_MAX of them count.

    `left_out`: how many more there were.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        values = list(dict.fromkeys(each for each in known if len(each) >= SHORTEST))
        self.left_out = max(0, len(values) - KNOWN_MAX)
        kept = values[:KNOWN_MAX]
        # As JSON has them, too: a log line escapes quotes and line ends.
        escaped = [json.dumps(each)[1:-1] for each in kept]
        lines = [line for each in kept for line in each.splitlines() if len(line) >= SHORTEST]
        every = {*kept, *escaped, *map(_escaped, kept), *lines}
        # The longest first: one may be the beginning of another.
        self._known = sorted(every, key=lambda each: (-len(each), each))

    def text(self, text: str) -> str:
        """The text without what is known or looks like a secret."""
        return _by_form(self._by_value(_PEM.sub(REDACTED, text), self._known))

    def lines(self, text: str) -> str:
        """As `text`, of a log: lines of JSON stay JSON."""
        whole = self._by_value(_PEM.sub(REDACTED, text), self._known)
        return "".join(f"{_line(line)}\n" for line in whole.splitlines())

    def json(self, value: Any) -> str:
        """Nested data as JSON, numbers untouched: in maps, what has a secret's name goes, in
        command lines what follows a flag like --password, and all other text is as in `text`.
        """
        found = _data(value)
        encoded = _encoded(found)
        # Most values occur nowhere: so the many strings are not searched for each.
        there = [known for known in self._known if _escaped(known) in encoded]
        if there:
            found = _mapped(found, lambda text: self._by_value(text, there))
            encoded = _encoded(found)
        return encoded

    @staticmethod
    def _by_value(text: str, values: Iterable[str]) -> str:
        for value in values:
            text = text.replace(value, REDACTED)
        return text


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _encoded(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _by_form(text: str) -> str:
    text = _PEM.sub(REDACTED, text)
    text = _URL.sub(rf"\g<1>{REDACTED}@", text)
    if _HINT.search(text):
        text = _AUTHORIZATION.sub(rf"\g<1>{REDACTED}", text)
        text = _FLAG.sub(_pair, text)
        text = _PAIR.sub(_pair, text)
    text = _USER.sub(rf"\g<1>{REDACTED}", text)
    text = _SHORT_FLAG.sub(_pair, text)
    text = _BEARER.sub(rf"\g<1> {REDACTED}", text)
    return _TOKEN.sub(REDACTED, _JWT.sub(REDACTED, text))


def _line(line: str) -> str:
    if line.startswith("{"):
        try:
            return json.dumps(_data(json.loads(line)), ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
    return _by_form(line)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(str(name)): _mapped(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(inner, change) for inner in value]
    return value


def _data(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            _by_form(str(name)): REDACTED if _is_secret(str(name), inner) else _data(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return _words(value)
    return _by_form(value) if isinstance(value, str) else value


def _is_secret(name: str, value: Any) -> bool:
    if isinstance(value, Mapping) and name in _PATHS:
        return False
    return bool(value) and isinstance(value, str | Mapping | list | tuple) and is_secret_name(name)


def _words(words: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    expected = False
    for word in words:
        text = isinstance(word, str)
        if text and expected:
            found.append(REDACTED)
            expected = False
            continue
        found.append(_data(word))
        flag = text and word.startswith("-") and "=" not in word
        expected = flag and is_secret_name(word.lstrip("-"))
    return found


def _pair(match: re.Match[str]) -> str:
    value = match[2]
    quote = re.match(r"\\?[\"']", value)
    return f"{match[1]}{quote[0] if quote else ''}{REDACTED}"
