"""What people call pods and Services, and what they are told when nothing is called so."""

from __future__ import annotations

import pytest

from agent import pod_names, service_asked, service_names
from agent.pod_names import UnknownName
from agent.service_asked import Asked
from allocator.attachments import AddressLease, Attachment
from cluster import services
from datapath.frontends import Frontend


def attachment(pod: str, address: str, ifname: str = "eth0", number: int = 1) -> Attachment:
    """One of "ns/name", or with "" of a container that is no pod."""
    namespace, _, name = pod.partition("/")
    leases = (AddressLease("main", f"{address}/24", ""),)
    container = f"{number:x}{'c0ffee' * 10}"
    return Attachment("lan", container, ifname, namespace, name, "", "", 0, 0, "ipvlan", "eth0", number, "", leases)


WEB, NET1 = attachment("default/web", "10.8.0.10"), attachment("default/web", "10.9.0.10", "net1", 2)
OTHER_WEB, LONELY = attachment("shop/web", "10.8.0.11", number=3), attachment("shop/db", "10.8.0.12", number=4)
BARE = attachment("", "10.8.0.13", number=5)
ALL = [NET1, WEB, OTHER_WEB, LONELY, BARE]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("default/web", [WEB, NET1]),
        ("web", [WEB, NET1]),
        ("shop/web", [OTHER_WEB]),
        ("db", [LONELY]),
        ("10.8.0.11", [OTHER_WEB]),
        (pod_names.name_of(BARE), [BARE]),
        (BARE.container_id, [BARE]),
    ],
)
def test_a_pod_by_its_names(asked: str, found: list[Attachment]) -> None:
    """A bare name is the default namespace's first; eth0 comes first."""
    assert pod_names.find(ALL, asked) == found


def test_a_name_of_several_pods_is_not_guessed() -> None:
    with pytest.raises(UnknownName, match="may be shop/web, zoo/web: say which"):
        pod_names.find([OTHER_WEB, attachment("zoo/web", "10.8.0.14", number=6)], "web")


def test_an_unknown_pod_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(
        UnknownName, match=r"no pod 'nosuch' is attached on this node; attached: .*default/web, shop/db"
    ):
        pod_names.find(ALL, "nosuch")
    with pytest.raises(UnknownName, match="none is"):
        pod_names.find([], "web")
    many = [attachment(f"default/p{number}", "10.8.0.1", number=number) for number in range(20)]
    with pytest.raises(UnknownName, match="and 12 more"):
        pod_names.find(many, "nosuch")


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("web", Asked("web")),
        ("default/web", Asked("default/web")),
        ("default/web:80", Asked("default/web", 80)),
        ("web:53/udp", Asked("web", 53, "UDP")),
        ("web/SCTP", Asked("web", 0, "SCTP")),
        ("shop/udp", Asked("shop/udp")),
        ("shop/udp/UDP", Asked("shop/udp", 0, "UDP")),
        ("10.96.0.10:80", Asked("10.96.0.10", 80)),
        ("fd00::10", Asked("fd00::10")),
        ("[fd00:0::10]:80/TCP", Asked("fd00::10", 80, "TCP")),
    ],
)
def test_how_a_service_is_written(text: str, asked: Asked) -> None:
    assert service_asked.parse(text) == asked


@pytest.mark.parametrize(
    "text", ["", "/web", "a/b/c", "web:0", "web:65536", "web:http", "web:-1", "a//web", "web:\uff18"]
)
def test_how_a_service_is_not_written(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not (SERVICE|a port)"):
        service_asked.parse(text)


def offer(service: str, cluster_ip: bool = True) -> services.Offer:
    return services.Offer((), (), 0, cluster_ip, service)


NAMES = service_names.ordered(
    {
        services.Frontend("0.0.0.0", 30080, "TCP"): offer("default/web", False),
        services.Frontend("192.0.2.1", 80, "TCP"): offer("default/web", False),
        services.Frontend("fd96::10", 80, "TCP"): offer("default/web"),
        services.Frontend("10.96.0.10", 80, "TCP"): offer("default/web"),
        services.Frontend("10.96.0.53", 53, "UDP"): offer("kube-system/dns"),
        services.Frontend("10.96.0.53", 53, "TCP"): offer("kube-system/dns"),
        services.Frontend("10.96.0.53", 9153, "TCP"): offer("kube-system/dns"),
        services.Frontend("10.96.0.11", 80, "TCP"): offer("shop/web"),
    }
)


@pytest.mark.parametrize(
    ("asked", "namespace", "families", "frontend"),
    [
        (Asked("web"), "default", (4, 6), ("10.96.0.10", 80, "TCP")),
        (Asked("web"), "shop", (4,), ("10.96.0.11", 80, "TCP")),
        (Asked("web"), "elsewhere", (6,), ("fd96::10", 80, "TCP")),
        (Asked("web", 81), "default", (4,), ("10.96.0.10", 81, "TCP")),
        (Asked("kube-system/dns", 53), "default", (4,), ("10.96.0.53", 53, "TCP")),
        (Asked("kube-system/dns", 53, "UDP"), "default", (4,), ("10.96.0.53", 53, "UDP")),
        (Asked("kube-system/dns", 0, "UDP"), "default", (4,), ("10.96.0.53", 53, "UDP")),
        (Asked("192.0.2.1"), "default", (4,), ("192.0.2.1", 80, "TCP")),
        (Asked("10.8.0.9", 8080), "default", (4,), ("10.8.0.9", 8080, "TCP")),
    ],
)
def test_the_frontend_that_a_pod_means(
    asked: Asked, namespace: str, families: tuple[int, ...], frontend: tuple[str, int, str]
) -> None:
    assert service_names.choose(asked, NAMES, namespace, families) == frontend


@pytest.mark.parametrize(
    ("asked", "families", "told"),
    [
        (Asked("kube-system/dns"), (4,), r"has :53/TCP, :53/UDP, :9153/TCP: say which port"),
        (Asked("10.8.0.9"), (4,), "10.8.0.9 has no frontend here: say which port"),
        (Asked("dns"), (4,), "no Service default/dns; there is kube-system/dns"),
        (Asked("nosuch"), (4,), "no Service default/nosuch has a frontend: headless"),
        (Asked("kube-system/dns", 53), (6,), "no address of the family of 10.96.0.53"),
    ],
)
def test_what_cannot_be_meant_is_explained(asked: Asked, families: tuple[int, ...], told: str) -> None:
    with pytest.raises(UnknownName, match=told):
        service_names.choose(asked, NAMES, "default", families)


def test_all_frontends_of_a_service() -> None:
    found = service_names.frontends_of(Asked("web"), NAMES)
    assert found == [
        Frontend("10.96.0.10", 80, "TCP"),
        Frontend("fd96::10", 80, "TCP"),
        Frontend("0.0.0.0", 30080, "TCP"),
        Frontend("192.0.2.1", 80, "TCP"),
    ]
    assert service_names.frontends_of(Asked("kube-system/dns", 53, "UDP"), NAMES) == [("10.96.0.53", 53, "UDP")]
