"""What kube-proxy would write for Services with several endpoints: all of it, and when one endpoint changes. Pure.

Only what grows with the Services, which flatters kube-proxy a little: no masquerading of external traffic, no filter
table. iptables: pkg/proxy/iptables of Kubernetes 1.31 (which since 1.26 leaves the chains of unchanged Services out,
but always writes all of KUBE-SERVICES); nftables: pkg/proxy/nftables of 1.31.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Rules:
    """A ClusterIP Service of which one port has these endpoints ("a.b.c.d")."""

    name: str
    address: str
    endpoints: tuple[str, ...]

    def with_endpoint(self, index: int, address: str) -> Rules:
        """The same with another endpoint at one place."""
        endpoints = list(self.endpoints)
        endpoints[index] = address
        return replace(self, endpoints=tuple(endpoints))


PORT, TARGET_PORT = 80, 8080


def iptables_all(services: Iterable[Rules]) -> str:
    """Input of `iptables-restore`."""
    chains, rules = [":KUBE-SERVICES - [0:0]", ":KUBE-MARK-MASQ - [0:0]"], []
    for one in services:
        rules.append(_service_rule(one))
        chains.append(f":{_svc(one)} - [0:0]")
        chains += [f":{_sep(one, endpoint)} - [0:0]" for endpoint in one.endpoints]
        rules += _svc_rules(one)
        for endpoint in one.endpoints:
            rules += _sep_rules(one, endpoint)
    return _table(chains, rules)


def iptables_change(old: Rules, new: Rules) -> str:
    """Input of `iptables-restore --noflush`: only the chains that a changed endpoint changes."""
    chains = [f":{_svc(new)} - [0:0]"]
    chains += [f":{_sep(new, endpoint)} - [0:0]" for endpoint in _differing(new, old)]
    gone = [_sep(old, endpoint) for endpoint in _differing(old, new)]
    chains += [f":{chain} - [0:0]" for chain in gone]
    rules = [*_svc_rules(new)]
    for endpoint in _differing(new, old):
        rules += _sep_rules(new, endpoint)
    return _table(chains, [*rules, *(f"-X {chain}" for chain in gone)])


def iptables_sync(services: Iterable[Rules], old: Rules, new: Rules) -> str:
    """The same as kube-proxy writes it: with the whole chain KUBE-SERVICES."""
    change = iptables_change(old, new).splitlines()
    chains, rules = [line for line in change if line[0] == ":"], [line for line in change if line[0] == "-"]
    return _table([":KUBE-SERVICES - [0:0]", *chains], [*map(_service_rule, services), *rules])


def nft_all(services: Sequence[Rules]) -> str:
    """Input of `nft -f -`."""
    chains: list[str] = []
    for one in services:
        chains += [_nft_endpoint(one, endpoint) for endpoint in one.endpoints]
        chains.append(f"chain {_nft_service(one)} {{\n{_nft_choice(one)}\n}}")
    elements = ", ".join(f"{one.address} . tcp . {PORT} : goto {_nft_service(one)}" for one in services)
    kind = "type ipv4_addr . inet_proto . inet_service : verdict"
    return "\n".join(
        [
            "table ip kube-proxy {",
            "chain mark-for-masquerade {\nmeta mark set meta mark or 0x4000\n}",
            *chains,
            f"map service-ips {{\n{kind}\nelements = {{ {elements} }}\n}}",
            "chain services {\nip daddr . meta l4proto . th dport vmap @service-ips\n}",
            "chain nat-prerouting {\ntype nat hook prerouting priority -100\njump services\n}",
            "}\n",
        ]
    )


def nft_change(old: Rules, new: Rules) -> str:
    """Input of `nft -f -`: one transaction for the chains that a changed endpoint changes."""
    table, lines = "ip kube-proxy", []
    for endpoint in _differing(new, old):
        name = _nft_endpoint_name(new, endpoint)
        lines.append(f"add chain {table} {name}")
        lines += [f"add rule {table} {name} {rule}" for rule in _nft_endpoint_rules(endpoint)]
    service = _nft_service(new)
    lines += [f"flush chain {table} {service}", f"add rule {table} {service} {_nft_choice(new)}"]
    for endpoint in _differing(old, new):
        name = _nft_endpoint_name(old, endpoint)
        lines += [f"flush chain {table} {name}", f"delete chain {table} {name}"]
    return "\n".join([*lines, ""])


def _differing(one: Rules, other: Rules) -> Iterator[str]:
    return (endpoint for endpoint in one.endpoints if endpoint not in other.endpoints)


def _table(chains: Iterable[str], rules: Iterable[str]) -> str:
    return "\n".join(["*nat", *chains, *rules, "COMMIT", ""])


def _service_rule(one: Rules) -> str:
    vip = f"-m tcp -p tcp -d {one.address}/32 --dport {PORT}"
    return f'-A KUBE-SERVICES -m comment --comment "{one.name}:http cluster IP" {vip} -j {_svc(one)}'


def _svc_rules(one: Rules) -> Iterator[str]:
    count = len(one.endpoints)
    for index, endpoint in enumerate(one.endpoints):
        left = count - index
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        comment = f'-m comment --comment "{one.name}:http -> {endpoint}:{TARGET_PORT}"'
        yield f"-A {_svc(one)} {comment} {chance}-j {_sep(one, endpoint)}"


def _sep_rules(one: Rules, endpoint: str) -> tuple[str, str]:
    chain, comment = _sep(one, endpoint), f"-m comment --comment {one.name}:http"
    return (
        f"-A {chain} {comment} -s {endpoint}/32 -j KUBE-MARK-MASQ",
        f"-A {chain} {comment} -m tcp -p tcp -j DNAT --to-destination {endpoint}:{TARGET_PORT}",
    )


def _svc(one: Rules) -> str:
    return f"KUBE-SVC-{_hash(one.name, 16)}"


def _sep(one: Rules, endpoint: str) -> str:
    return f"KUBE-SEP-{_hash(one.name + endpoint, 16)}"


def _nft_service(one: Rules) -> str:
    return f"service-{_hash(one.name, 8)}-{one.name}/tcp/http"


def _nft_endpoint_name(one: Rules, endpoint: str) -> str:
    return f"endpoint-{_hash(one.name + endpoint, 8)}-{one.name}/tcp/http__{endpoint}/{TARGET_PORT}"


def _nft_endpoint(one: Rules, endpoint: str) -> str:
    rules = "\n".join(_nft_endpoint_rules(endpoint))
    return f"chain {_nft_endpoint_name(one, endpoint)} {{\n{rules}\n}}"


def _nft_endpoint_rules(endpoint: str) -> tuple[str, str]:
    return (
        f"ip saddr {endpoint} jump mark-for-masquerade",
        f"meta l4proto tcp dnat to {endpoint}:{TARGET_PORT}",
    )


def _nft_choice(one: Rules) -> str:
    targets = (f"{i} : goto {_nft_endpoint_name(one, endpoint)}" for i, endpoint in enumerate(one.endpoints))
    return f"numgen random mod {len(one.endpoints)} vmap {{ {', '.join(targets)} }}"


def _hash(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length].upper()
