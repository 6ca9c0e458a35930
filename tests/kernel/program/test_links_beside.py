# SPDX-License-Identifier: Apache-2.0
"""Who asks what is attached holds nobody's link for that, not even for a moment: /proc says which links there are."""

from __future__ import annotations

import pytest

from toolkit.errors import SystemCallError
from toolkit.lab import Lab
from toolkit.program import Program, query


@pytest.mark.parametrize("replace", [False, True])
def test_a_refused_attachment_opens_no_link(lab: Lab, monkeypatch: pytest.MonkeyPatch, replace: bool) -> None:
    """And names the link all the same. (A link that is pinned, or held where we cannot see, is still opened.)"""
    opened: list[int] = []
    by_id = query._link_by_id

    def noted(number: int) -> query.XdpLink | None:
        opened.append(number)
        return by_id(number)

    monkeypatch.setattr(query, "_link_by_id", noted)
    with (
        Program.build("xdp_pass.c") as first,
        Program.build("xdp_pass.c") as second,
        first.attach("veth0", netns=lab.netns) as link,
    ):
        with pytest.raises(SystemCallError, match=f"held by link {link.id}"):
            second.attach("veth0", netns=lab.netns, replace=replace)
        assert link.id not in opened
        with lab.netns.entered():
            found = query.attached(link.ifindex)
        assert found is not None
        assert found.link_ids == (link.id,)
        assert link.id not in opened
