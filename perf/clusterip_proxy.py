"""The rules that kube-proxy would write for a list of Services, as text for iptables-restore and nft. Pure.

iptables: the nat table of pkg/proxy/iptables (its golden test, Kubernetes 1.31); nftables: the table of
pkg/proxy/nftables (1.31). Every Service has one endpoint. Pods are outside the cluster CIDR (they are underlay pods),
so that kube-proxy masquerades what they send to a ClusterIP and the answer comes back by the node.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CLUSTER_CIDRS = {4: "10.244.0.0/16", 6: "fd24::/56"}


@dataclass(frozen=True, slots=True)
class Service:
    """A ClusterIP Service with one endpoint."""

    name: str
    address: str
    port: int
    endpoint: str
    endpoint_port: int


def iptables_rules(services: Sequence[Service], family: int) -> str:
    """Input of iptables-restore (6: ip6tables-restore) for the whole nat table."""
    length, outside = 32 if family == 4 else 128, f"! -s {CLUSTER_CIDRS[family]}"
    chains = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"]
    rules = [
        '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
        "-A KUBE-POSTROUTING -m mark ! --mark 0x00004000/0x00004000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --xor-mark 0x00004000",
        '-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE'
        " --random-fully",
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x00004000",
    ]
    for one in services:
        name = f"{one.name}:http"
        service, endpoint = _chain("SVC", name), _chain("SEP", f"{name}{_joined(one)}")
        chains += [service, endpoint]
        vip = f"-m tcp -p tcp -d {one.address}/{length} --dport {one.port}"
        rules += [
            f'-A KUBE-SERVICES -m comment --comment "{name} cluster IP" {vip} -j {service}',
            f'-A {service} -m comment --comment "{name} cluster IP" {vip} {outside} -j KUBE-MARK-MASQ',
            f'-A {service} -m comment --comment "{name} -> {_joined(one)}" -j {endpoint}',
            f"-A {endpoint} -m comment --comment {name} -s {one.endpoint}/{length} -j KUBE-MARK-MASQ",
            f"-A {endpoint} -m comment --comment {name} -m tcp -p tcp -j DNAT --to-destination {_joined(one)}",
        ]
    rules.append(
        '-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this'
        ' chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS'
    )
    return _lines(["*nat", *(f":{chain} - [0:0]" for chain in chains), *rules, "COMMIT"])


def nftables_rules(services: Sequence[Service], family: int) -> str:
    """Input of `nft -f -` for the table kube-proxy of one family."""
    ip = "ip" if family == 4 else "ip6"
    outside = f"{ip} saddr != {CLUSTER_CIDRS[family]}"
    chains, elements, addresses = [], [], []
    for one in services:
        tail = f"{one.name}/tcp/http"
        service = f"service-{_hash(tail, 8)}-{tail}"
        # Colons may not stand in a chain's name: kube-proxy writes dots.
        endpoint = (
            f"endpoint-{_hash(tail + _joined(one), 8)}-{tail}__{one.endpoint.replace(':', '.')}/{one.endpoint_port}"
        )
        chains.append(
            f"chain {service} {{\n"
            f"{ip} daddr {one.address} tcp dport {one.port} {outside} jump mark-for-masquerade\n"
            f"numgen random mod 1 vmap {{ 0 : goto {endpoint} }}\n}}"
        )
        chains.append(
            f"chain {endpoint} {{\n{ip} saddr {one.endpoint} jump mark-for-masquerade\n"
            f"meta l4proto tcp dnat to {_joined(one)}\n}}"
        )
        elements.append(f"{one.address} . tcp . {one.port} : goto {service}")
        addresses.append(one.address)
    # Endpoint chains first: nft resolves names in the order it reads them.
    per_service = [text for pair in zip(chains[1::2], chains[::2], strict=True) for text in pair]
    fixed = _FIXED_CHAINS.format(ip=ip, service_network="10.96.0.0/12" if family == 4 else "fd96::/108")
    return _lines(
        [
            f"table {ip} kube-proxy {{",
            'comment "rules for kube-proxy"',
            "chain mark-for-masquerade {\nmeta mark set meta mark or 0x4000\n}",
            *per_service,
            _set("cluster-ips", f"type ipv{family}_addr", addresses),
            _map("service-ips", family, elements),
            _map("no-endpoint-services", family, ()),
            _map("firewall-ips", family, ()),
            _set("nodeport-ips", f"type ipv{family}_addr", ()),
            "map service-nodeports {\ntype inet_proto . inet_service : verdict\n}",
            "map no-endpoint-nodeports {\ntype inet_proto . inet_service : verdict\n}",
            fixed,
            "}",
        ]
    )


_FIXED_CHAINS = """\
chain services {{
{ip} daddr . meta l4proto . th dport vmap @service-ips
{ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
}}
chain masquerading {{
meta mark and 0x4000 == 0 return
meta mark set meta mark xor 0x4000
masquerade fully-random
}}
chain cluster-ips-check {{
{ip} daddr @cluster-ips reject
{ip} daddr {service_network} drop
}}
chain firewall-check {{
{ip} daddr . meta l4proto . th dport vmap @firewall-ips
}}
chain service-endpoints-check {{
{ip} daddr . meta l4proto . th dport vmap @no-endpoint-services
}}
chain nodeport-endpoints-check {{
{ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
}}
chain filter-prerouting-pre-dnat {{
type filter hook prerouting priority -110
ct state new jump firewall-check
}}
chain filter-input {{
type filter hook input priority -110
ct state new jump nodeport-endpoints-check
ct state new jump service-endpoints-check
}}
chain filter-forward {{
type filter hook forward priority -110
ct state new jump service-endpoints-check
ct state new jump cluster-ips-check
}}
chain filter-output-pre-dnat {{
type filter hook output priority -110
ct state new jump firewall-check
}}
chain filter-output {{
type filter hook output priority -90
ct state new jump service-endpoints-check
ct state new jump cluster-ips-check
}}
chain nat-prerouting {{
type nat hook prerouting priority -100
jump services
}}
chain nat-output {{
type nat hook output priority -100
jump services
}}
chain nat-postrouting {{
type nat hook postrouting priority 100
jump masquerading
}}"""


def _set(name: str, kind: str, elements: Sequence[str]) -> str:
    return f"set {name} {{\n{kind}\n{_elements(elements)}}}"


def _map(name: str, family: int, elements: Sequence[str]) -> str:
    kind = f"type ipv{family}_addr . inet_proto . inet_service : verdict"
    return f"map {name} {{\n{kind}\n{_elements(elements)}}}"


def _elements(elements: Sequence[str]) -> str:
    return f"elements = {{ {', '.join(elements)} }}\n" if elements else ""


def _joined(one: Service) -> str:
    host = f"[{one.endpoint}]" if ":" in one.endpoint else one.endpoint
    return f"{host}:{one.endpoint_port}"


def _chain(kind: str, name: str) -> str:
    return f"KUBE-{kind}-{_hash(name + 'tcp', 16)}"


def _hash(text: str, length: int) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:length]


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
