"""How values are shown: what a terminal must not get is escaped or left out, what a program gets is whole."""

import pytest

from kvlog.cli.show import harmless, item_fields, moment, printable, value_text
from kvlog.client import Item


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u00e4\u4e2d", "plain \u00e4\u4e2d"),
        ("a\tb\nc", r"a\tb\nc"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u202e", r"\u202e"),
    ],
)
def test_text_in_a_line_is_printable(text: str, shown: str):
    """Tabs and line breaks do not end a cell or a line, and a terminal obeys nothing in it."""
    assert printable(text) == shown


def test_of_a_value_that_is_no_text_the_size_is_shown():
    """Its bytes are for programs."""
    assert (value_text(b"v\n"), value_text(b"\xff\x00")) == (r"v\n", "(2 bytes)")


@pytest.mark.parametrize(
    ("value", "expected"), [(b"", True), (b"two\n\tlines\r\n", True), (b"\x1b[31m", False), (b"\xff", False)]
)
def test_a_terminal_gets_text_only(value: bytes, expected: bool):
    """Of more than one line, if need be."""
    assert harmless(value) == expected


def test_an_item_is_shown_as_the_api_has_it():
    """Base64 where the value is no text; the lease only if there is one; without values for keys alone."""
    text = Item("k", b"v", 7, 5, 2, "text/plain")
    data = Item("k", b"\xff", 7, 5, 2, "application/octet-stream", lease=3)

    assert item_fields(text) == {
        "key": "k",
        "value": "v",
        "content_type": "text/plain",
        "create_revision": 5,
        "revision": 7,
        "version": 2,
    }
    assert {"value": "/w==", "encoding": "base64", "lease": 3}.items() <= item_fields(data).items()
    assert item_fields(text, with_value=False) == {"key": "k", "create_revision": 5, "revision": 7, "version": 2}


def test_a_moment_is_in_utc():
    """To the millisecond."""
    assert moment(1_795_349_019_012) == "2026-11-22T12:03:39.012Z"
