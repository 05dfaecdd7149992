"""The kind of datapath by the kernel's release, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import datapaths
from agent.datapaths import MISSING, Choice, DatapathRefused, choose, new_enough, refuse_change
from datapath import sysctl


@pytest.mark.parametrize(
    ("release", "fits"),
    [
        ("5.10", True),
        ("5.10.0-28-amd64", True),
        ("5.9.16", False),
        ("5.4.0-150-generic", False),
        ("4.18.0-553.16.1.el8_10.x86_64", False),
        ("4.20.17", False),
        ("6.1.0-18-cloud-amd64", True),
        ("6.18.44", True),
        ("10.0.0", True),
        ("5.100.0", True),
    ],
)
def test_the_release_decides(release: str, fits: bool) -> None:
    assert new_enough(release) is fits


@pytest.mark.parametrize("release", ["", "linux", "6", "v5.10"])
def test_a_release_that_is_none(release: str) -> None:
    with pytest.raises(ValueError, match="does not begin with a version"):
        new_enough(release)
    with pytest.raises(DatapathRefused, match="--datapath=netlink"):
        choose("auto", release)


@pytest.mark.parametrize(
    ("wanted", "release", "name", "reason"),
    [
        ("auto", "5.10.0", "ebpf", "chosen: Linux 5.10.0 is 5.10 or newer"),
        ("auto", "5.4.0", "netlink", "chosen: Linux 5.4.0 is older than 5.10"),
        ("ebpf", "6.1.0", "ebpf", "by --datapath=ebpf"),
        ("netlink", "6.1.0", "netlink", "by --datapath=netlink"),
        ("netlink", "4.19.0", "netlink", "by --datapath=netlink"),
    ],
)
def test_the_choice(wanted: str, release: str, name: str, reason: str) -> None:
    choice = choose(wanted, release)
    assert choice == Choice(name, reason)
    assert choice.missing == (MISSING if name == "netlink" else ())


def test_ebpf_on_an_old_kernel_is_refused_with_two_ways_out() -> None:
    with pytest.raises(DatapathRefused, match=r"5\.9\.1 is too old.*boot a newer kernel, or use --datapath=netlink"):
        choose("ebpf", "5.9.1")


def test_a_change_of_the_datapath_is_refused_while_pods_are_wired_for_the_other(tmp_path: Path) -> None:
    note, ebpf, netlink = tmp_path / "datapath", Choice("ebpf", "a"), Choice("netlink", "b")
    refuse_change(note, netlink, 0)
    refuse_change(note, netlink, 2)
    with pytest.raises(DatapathRefused, match=r"2 pods .* wired for the netlink datapath, this start has ebpf"):
        refuse_change(note, ebpf, 2)
    refuse_change(note, netlink, 2)
    refuse_change(note, ebpf, 0)
    refuse_change(note, ebpf, 1)


def test_an_agent_that_left_no_note_had_ebpf(tmp_path: Path) -> None:
    note = tmp_path / "datapath"
    with pytest.raises(DatapathRefused, match="start with --datapath=ebpf"):
        refuse_change(note, Choice("netlink", ""), 1)
    refuse_change(note, Choice("ebpf", ""), 1)


@pytest.mark.parametrize(
    ("cidrs", "off", "wanted"),
    [
        (("10.96.0.0/12", "fd00:96::/108"), set(), []),
        (("10.96.0.0/12", "fd00:96::/108"), {4}, ["ip_forward"]),
        (("10.96.0.0/12",), {6}, []),
        (("10.96.0.0/12", "fd00:96::/108"), {4, 6}, ["ip_forward", "ipv6"]),
        ((), set(), ["--service-cidr is missing"]),
    ],
)
def test_what_keeps_pods_from_services(
    cidrs: tuple[str, ...], off: set[int], wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysctl, "forwards", lambda family: family not in off)
    found = datapaths.problems(Choice("netlink", ""), cidrs)
    assert [word in text for word, text in zip(wanted, found, strict=True)] == [True] * len(wanted)
    assert datapaths.problems(Choice("ebpf", ""), cidrs) == []
