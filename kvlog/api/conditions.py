"""Conditional requests and negotiation (RFC 9110, 12.5.1 and 13): entity tags are revisions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from kvlog.api.answers import JSON
from kvlog.api.parameters import NUMBER_MAX
from kvlog.core.commands import AnyOf, Compare, Condition, Relation, Target
from kvlog.errors import InvalidInput

TAGS_MAX = 500

_AS_ITEM = "-json"
"""What the tag of a key's JSON form ends with: two forms of one key must not have the same tag."""

_TAG = re.compile(r'[ \t]*+(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*+)"[ \t]*+)?+(,|\Z)')
"""Its parts never give back what it has taken: long headers are read in one go."""
_REVISION = re.compile(rf"([1-9][0-9]{{0,18}})(?:{_AS_ITEM})?")


class Tag(NamedTuple):
    """An entity tag, without its quotes."""

    opaque: str
    weak: bool = False

    @property
    def revision(self) -> int:
        """The revision that it names, 0 if none: then no key has it."""
        match = _REVISION.fullmatch(self.opaque)
        revision = int(match[1]) if match else 0
        return revision if revision <= NUMBER_MAX else 0


class Tags(NamedTuple):
    """The value of If-Match or If-None-Match: ``*`` (``anything``), or tags."""

    tags: tuple[Tag, ...] = ()
    anything: bool = False


def tag_of(revision: int, *, as_item: bool = False) -> str:
    """The entity tag of a key at a revision, in its raw form or as JSON."""
    return f'"{revision}{_AS_ITEM if as_item else ""}"'


def tags(name: str, value: str | None) -> Tags | None:
    """The tags in a header, None if there is no such header.

    Raises:
        InvalidInput: it is no list of entity tags.
    """
    if value is None:
        return None
    if value.strip(" \t") == "*":
        return Tags(anything=True)
    found: list[Tag] = []
    at = 0
    while at < len(value):
        match = _TAG.match(value, at)
        if match is None or len(found) == TAGS_MAX:
            break
        if match[2] is not None:
            found.append(Tag(match[2], weak=match[1] is not None))
        at = match.end()
    else:
        if found:
            return Tags(tuple(found))
    raise InvalidInput(
        f'{name}: must be * or revisions in quotes, {TAGS_MAX} at most, as ETag has them: {name}: "7"'
    )


def conditions(key: str, if_match: Tags | None, if_none_match: Tags | None) -> tuple[Condition, ...]:
    """What has to hold for a write to happen, in the order of RFC 9110, 13.2.2."""
    found: list[Condition] = []
    if if_match is not None:
        if if_match.anything:
            found.append(Compare(key, Target.REVISION, Relation.GREATER, 0))
        else:
            found.append(AnyOf(key, tuple(_revisions(tag for tag in if_match.tags if not tag.weak))))
    if if_none_match is not None:
        if if_none_match.anything:
            found.append(Compare(key, Target.REVISION, Relation.EQUAL, 0))
        else:
            others = _revisions(if_none_match.tags)
            found += [Compare(key, Target.REVISION, Relation.UNEQUAL, revision) for revision in others]
    return tuple(found)


def _revisions(found: Iterable[Tag]) -> list[int]:
    """The revisions that are named, each once; tags that are no revision match nothing."""
    return [revision for revision in dict.fromkeys(tag.revision for tag in found) if revision]


def matches(found: Tags, revision: int) -> bool:
    """If-Match: whether one of the tags is that of this revision, in either form; weak ones never are (13.1.1)."""
    return found.anything or any(tag.revision == revision and not tag.weak for tag in found.tags)


def is_known(found: Tags, tag: str) -> bool:
    """If-None-Match: whether the client has this very form of the key already (13.1.2)."""
    return found.anything or any(f'"{each.opaque}"' == tag for each in found.tags)


def wants_item(accepted: Iterable[tuple[str, float]], raw_type: str) -> bool:
    """Whether a client prefers a key as JSON to its raw value, which is of ``raw_type``.

    ``accepted``: what its Accept header lists, with qualities. Only who names application/json itself can mean the
    JSON form; and whoever accepts the raw one just as well gets that.
    """
    raw = raw_type.partition(";")[0].strip().lower()
    ranks = {raw: 3, raw.partition("/")[0] + "/*": 2, "*/*": 1}
    item_quality = 0.0
    raw_rank, raw_quality = 0, 0.0
    for value, quality in accepted:
        wanted = value.partition(";")[0].strip().lower()
        if wanted == JSON:
            item_quality = max(item_quality, quality)
        elif (rank := ranks.get(wanted, 0)) > raw_rank:
            raw_rank, raw_quality = rank, quality
    return item_quality > raw_quality
