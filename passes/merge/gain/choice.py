"""Which of several edits to make: all where all together gain, else the groups that do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from passes.merge.gain.scales import Scales, Verdict

MOST_GROUPS = 6
"""Groups that are timed on their own, at a few seconds each."""


@dataclass(frozen=True)
class Choice:
    """What to do with each edit, by its key.

    Args:
        taken: What speaks for it.
        left: What speaks against it.
    """

    taken: Mapping[str, Verdict]
    left: Mapping[str, Verdict]


def choose(
    scales: Scales,
    before: ir.Model,
    groups: Mapping[str, Hashable],
    apply: Callable[[Collection[str]], ir.Model],
) -> Choice:
    """Weigh edits together, and in groups where together they do not gain.

    Edits of one group are of one kind (operator, sizes): the clock says the same of all of them,
    and of many together it says so sooner.

    Args:
        scales: What they are weighed on.
        before: The model without any of them; stays as it is.
        groups: By the key of an edit, what its group is. The largest groups are weighed first.
        apply: Returns a copy of the model with these edits made.
    """
    if not groups:
        return Choice({}, {})
    whole = scales.weigh(before, apply(groups.keys()))
    if whole.gains:
        return Choice(dict.fromkeys(groups, whole), {})
    members: dict[Hashable, list[str]] = {}
    for key, group in groups.items():
        members.setdefault(group, []).append(key)
    if len(members) == 1:
        return Choice({}, dict.fromkeys(groups, whole))
    return _by_group(scales, before, list(members.values()), apply, whole)


def _by_group(
    scales: Scales,
    before: ir.Model,
    groups: list[list[str]],
    apply: Callable[[Collection[str]], ir.Model],
    whole: Verdict,
) -> Choice:
    taken: dict[str, Verdict] = {}
    left: dict[str, Verdict] = {}
    untried = Verdict(False, f"all together: {whole.why}", whole.details)
    for position, keys in enumerate(sorted(groups, key=len, reverse=True)):
        if position >= MOST_GROUPS:
            left.update(dict.fromkeys(keys, untried))
            continue
        # Behind what was taken before: edits that gain apart may not gain together.
        after = apply([*taken, *keys])
        verdict = scales.weigh(before, after)
        if verdict.gains:
            taken.update(dict.fromkeys(keys, verdict))
            before = after
        else:
            left.update(dict.fromkeys(keys, verdict))
    return Choice(taken, left)
