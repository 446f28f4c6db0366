"""What of a tracking URI may others read? All but its user, its password and what its query may hold of secrets."""

from __future__ import annotations

import re

_URI = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*://)(?P<rest>[^\s'\"<>]*)")
_FORM = re.compile(  # in which each part ends where every library sees it end
    r"""[a-z][\w+.-]*://
        ([^\s'"<>@/?\#\\]*@)?
        (\[[\da-f:.%]*\]|[^\s'"<>@/?\#:]*)(:\d*)?
        (/[^\s'"<>@?\#]*)?
        (\?[^\s'"<>@\#]*)?""",
    re.VERBOSE | re.IGNORECASE,
)
_HARMLESS = re.compile(  # of databases; what is not known to be harmless may be a password by another name
    r"(unix_)?(host|hostaddr|port|socket)|user|username|dbname|driver|charset|client_encoding|application_name|options"
    r"|(connect_|tcp_user_)?timeout|keepalives(_\w+)?|target_session_attrs|channel_binding"
    r"|ssl|ssl_?(mode|ca|cert|key|rootcert|crl)|mode|cache|uri|check_same_thread|isolation_level",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text with `user:password@` in any URI replaced by `***@`, and `password=...` by `password=***`."""
    return _URI.sub(_masked, text)


def is_clear(uri: str) -> bool:
    """Whether a server's URI has one reading: in `//a:b/c@d` the password may be `b/c`, or there is none."""
    return _FORM.fullmatch(uri) is not None


def shown(uri: str) -> str:
    """What an error may say of an address that may be malformed: its scheme alone where secrets may be anywhere."""
    if is_clear(uri):
        return redact(uri)
    scheme, separator, _ = uri.partition("://")
    return f"{scheme}://***" if separator else ("***" if set(uri) & set("@=?: ") else uri)


def _masked(found: re.Match[str]) -> str:
    rest = found["rest"]
    if "@" in rest and not rest.startswith("/"):  # else a file's, and `@` is part of a name
        if not is_clear(found[0]):
            return found["scheme"] + "***"
        rest = "***@" + rest.partition("@")[2]
    place, mark, query = rest.partition("?")
    return found["scheme"] + place + mark + "&".join(_field(field) for field in query.split("&") if mark)


def _field(field: str) -> str:
    name, equals, value = field.partition("=")
    if equals and _HARMLESS.fullmatch(name) and ";" not in value:  # which some take for another `&`
        return field
    return f"{name}=***" if equals else "***"
