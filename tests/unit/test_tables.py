"""What the commands print."""

from __future__ import annotations

from agent import tables

POOL = {
    "name": "master-172",
    "version": 4,
    "subnet": "172.31.192.0/20",
    "allocated": 1,
    "total": 5,
    "default": True,
}

STATUS = {
    "ready": True,
    "not_ready": [],
    "node": "worker",
    "version": "0.1.0",
    "kernel": "6.1.0",
    "store": "dir:/m",
    "datapath": "ebpf",
    "datapath_reason": "by --datapath=ebpf",
    "missing": [],
    "programs": "adopted 0123",
    "socket_lb": "on, at /sys/fs/cgroup",
    "uplinks": ["eth0"],
    "attachments": {"ready": 2},
    "frontends": 1,
    "backends": 2,
    "conntrack": {"entries": 40, "capacity": 131072},
    "journal": "/run/dragline/attachments.journal",
    "problems": [],
}


def test_pools_are_printed_as_kubectl_prints_them() -> None:
    assert tables.pools([POOL]).splitlines() == [
        "NAME         VERSION   SUBNET            ALLOCATED-IP-COUNT   TOTAL-IP-COUNT   DEFAULT",
        "master-172   4         172.31.192.0/20   1                    5                true",
    ]


def test_no_pools_is_said_in_words() -> None:
    assert tables.pools([]) == "No resources found"


def test_status_names_every_problem_and_why_it_is_not_ready() -> None:
    text = tables.status(
        STATUS
        | {
            "ready": False,
            "not_ready": ["store not read yet"],
            "problems": [{"source": "pools.yaml:3", "message": "subnet is missing"}],
        }
    )
    assert "Agent:       NOT READY: store not read yet" in text
    assert "Problems:    1" in text
    assert "pools.yaml:3: subnet is missing" in text
    assert "Problems:    none" in tables.status(STATUS)


def test_status_fits_a_terminal() -> None:
    assert all(len(line) < 80 for line in tables.status(STATUS).splitlines())


def test_what_is_missing_without_ebpf_is_said() -> None:
    told = {**STATUS, "datapath": "netlink", "datapath_reason": "why", "missing": ["no this", "no that"]}
    lines = tables.status(told).splitlines()
    assert "Datapath:    netlink (why)" in lines
    assert "Services:    by kube-proxy" in lines
    at = lines.index("Without eBPF:")
    assert lines[at + 1 : at + 3] == ["  no this", "  no that"]
