"""The rules that perf/clusterip.py gives kube-proxy: what its own golden tests expect for a ClusterIP Service."""

from perf.clusterip_proxy import Service, iptables_rules, nftables_rules

FOUR = Service("ns/web", "10.96.0.1", 80, "10.20.0.2", 7000)
SIX = Service("ns/web", "fd96::1", 80, "fd64:1::2", 7000)


def test_iptables_sends_a_service_to_its_endpoint() -> None:
    lines = iptables_rules([FOUR], 4).splitlines()
    chains = {line[1:].split()[0] for line in lines if line.startswith(":")}
    service = next(chain for chain in chains if chain.startswith("KUBE-SVC-"))
    endpoint = next(chain for chain in chains if chain.startswith("KUBE-SEP-"))
    assert (len(service), len(endpoint)) == (25, 25)
    vip = "-m tcp -p tcp -d 10.96.0.1/32 --dport 80"
    assert f'-A KUBE-SERVICES -m comment --comment "ns/web:http cluster IP" {vip} -j {service}' in lines
    masquerade = f"{vip} ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ"
    assert f'-A {service} -m comment --comment "ns/web:http cluster IP" {masquerade}' in lines
    assert f'-A {service} -m comment --comment "ns/web:http -> 10.20.0.2:7000" -j {endpoint}' in lines
    target = "-m tcp -p tcp -j DNAT --to-destination 10.20.0.2:7000"
    assert f"-A {endpoint} -m comment --comment ns/web:http {target}" in lines
    assert [line for line in lines if line.startswith("-A KUBE-SERVICES")][-1].endswith("-j KUBE-NODEPORTS")


def test_ipv6_endpoints_are_written_as_each_tool_wants_them() -> None:
    assert "--to-destination [fd64:1::2]:7000" in iptables_rules([SIX], 6)
    table = nftables_rules([SIX], 6)
    assert "dnat to [fd64:1::2]:7000" in table
    assert "__fd64.1..2/7000 {" in table  # no colons in a chain's name
    assert "ip daddr" not in table


def test_nftables_names_a_chain_before_it_is_used() -> None:
    lines = nftables_rules([FOUR], 4).splitlines()
    endpoint = next(place for place, line in enumerate(lines) if line.startswith("chain endpoint-"))
    service = next(place for place, line in enumerate(lines) if line.startswith("chain service-"))
    element = next(place for place, line in enumerate(lines) if "elements" in line and "goto service-" in line)
    assert endpoint < service < element
