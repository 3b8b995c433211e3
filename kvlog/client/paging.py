"""Listings that come in pages: which page is asked for next. All pages of one listing show the same revision."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Generic, Self, TypeVar

from kvlog.client import reads
from kvlog.client.errors import BadAnswer
from kvlog.client.messages import Call
from kvlog.client.reads import Listing, Page, ReadOptions
from kvlog.client.results import Difference, Item, LoggedEntry, Version

T = TypeVar("T")

NextPage = Callable[["Page[T] | None"], "Call[Page[T]] | None"]
"""The call for the page after this one, the first one after None; None if there is no more."""


class PagesSoFar(Generic[T]):
    """What a listing has told so far; each is 0, or False, before its first item was asked for."""

    def __init__(self, next_page: NextPage[T]) -> None:
        self._next_page = next_page
        self._page: Page[T] | None = None
        self._ready: deque[T] = deque()

    @property
    def revision(self) -> int:
        """The revision that the listing shows: a watch with ``start=revision + 1`` goes on behind it."""
        return self._page.revision if self._page else 0

    @property
    def floor(self) -> int:
        """The oldest revision whose state is known, in a key's history; the first index that is, in the log."""
        return self._page.floor if self._page else 0

    @property
    def trimmed(self) -> bool:
        """Behind the last item of a key's history: there may have been more, which is not remembered."""
        return self._page.trimmed if self._page else False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at revision {self.revision}>"

    def _call(self) -> Call[Page[T]] | None:
        return self._next_page(self._page)

    def _take(self, page: Page[T]) -> None:
        self._page = page
        self._ready.extend(page.items)


class Pages(PagesSoFar[T]):
    """An iterator of all items; it asks for the next page when it needs it."""

    def __init__(self, next_page: NextPage[T], do: Callable[[Call[Page[T]]], Page[T]]) -> None:
        super().__init__(next_page)
        self._do = do

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        while not self._ready:
            call = self._call()
            if call is None:
                raise StopIteration
            self._take(self._do(call))
        return self._ready.popleft()


class AsyncPages(PagesSoFar[T]):
    """The same for asyncio: ``async for``."""

    def __init__(self, next_page: NextPage[T], do: Callable[[Call[Page[T]]], Awaitable[Page[T]]]) -> None:
        super().__init__(next_page)
        self._do = do

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            call = self._call()
            if call is None:
                raise StopAsyncIteration
            self._take(await self._do(call))
        return self._ready.popleft()


def listing(wanted: Listing) -> NextPage[Item]:
    """The pages of a list of keys."""

    def next_page(page: Page[Item] | None) -> Call[Page[Item]] | None:
        if page is None:
            return reads.listing(wanted)
        if page.next is None:
            return None
        return reads.listing(replace(wanted, start=_key(page.next), options=ReadOptions(at=page.revision)))

    return next_page


def history(key: str, at_least: int) -> NextPage[Version]:
    """The pages of a key's history; the first one as of revision ``at_least``, or a later one."""

    def next_page(page: Page[Version] | None) -> Call[Page[Version]] | None:
        if page is None:
            return reads.history(key, None, at_least)
        return None if page.next is None else reads.history(key, _number(page.next), 0)

    return next_page


def diff(start: int, end: int | None, prefix: str, at_least: int) -> NextPage[Difference]:
    """The pages of what differs between two revisions; without ``end``, from ``at_least`` on at least."""

    def next_page(page: Page[Difference] | None) -> Call[Page[Difference]] | None:
        if page is None:
            return reads.diff(start, end, prefix, "", at_least)
        return None if page.next is None else reads.diff(start, page.revision, prefix, _key(page.next), 0)

    return next_page


def log(start: int) -> NextPage[LoggedEntry]:
    """The pages of the log up to where it ends now."""

    def next_page(page: Page[LoggedEntry] | None) -> Call[Page[LoggedEntry]] | None:
        if page is None:
            return reads.log(start)
        return None if page.next is None else reads.log(_number(page.next))

    return next_page


def _key(found: str | int) -> str:
    if not isinstance(found, str):
        raise BadAnswer(f"a page goes on at {found!r}, which is no key")
    return found


def _number(found: str | int) -> int:
    if not isinstance(found, int):
        raise BadAnswer(f"a page goes on at {found!r}, which is no number")
    return found
