"""The pure parts of the testbed and the demo: what the stand-ins work out, and checks that must be able to fail."""

import struct
from pathlib import Path

import pytest
import yaml

from tests.demo import scenario, web
from tests.demo.capture import Capture, Frame
from tests.demo.scenario import Deviation, check_capture
from tests.demo.story import Story
from tests.testbed import kernels, vm
from tests.testbed.endpoints import endpoint_slices
from tests.testbed.folder import StoreFolder
from tests.testbed.topology import Port, anti_spoofing, assigned_addresses, mac_of
from tests.testbed.workload import (
    addresses,
    cni_args,
    expand,
    load,
    matches,
    network_of,
    suffix,
    with_addresses,
)

OBJECTS = load(scenario.MANIFESTS)
APP_2 = next(o for o in OBJECTS if o["kind"] == "DaemonSet" and o["metadata"]["name"] == "test-app-2")
SERVICE = next(o for o in OBJECTS if o["kind"] == "Service")
CLIENT, BACKEND, MAC = "172.31.199.185", "192.168.0.161", mac_of("master", "eth0")


def pods_of(daemon_set: dict, nodes: list[str]) -> list[dict]:
    numbers = iter(range(1000, 2000))
    return expand(daemon_set, nodes, lambda: next(numbers), lambda: f"uid-{next(numbers)}")


def test_a_daemon_set_becomes_one_pod_per_node():
    master, worker = pods_of(APP_2, ["master", "worker"])
    assert (master["spec"]["nodeName"], worker["spec"]["nodeName"]) == ("master", "worker")
    assert master["metadata"]["name"] != worker["metadata"]["name"]
    assert master["metadata"]["name"].startswith("test-app-2-")
    assert master["metadata"]["uid"] != worker["metadata"]["uid"]
    assert master["metadata"]["labels"] == {"app": "test-app-2"}
    assert network_of(master, "kube-system/other") == "kube-system/ipvlan-eth1"


def test_a_template_that_its_selector_does_not_match_is_refused():
    broken = {**APP_2, "spec": {**APP_2["spec"], "selector": {"matchLabels": {"app": "else"}}}}
    with pytest.raises(ValueError, match="default/test-app-2"):
        pods_of(broken, ["master"])


@pytest.mark.parametrize(
    ("selector", "labels", "selected"),
    [
        ({"app": "a"}, {"app": "a", "tier": "x"}, True),
        ({"app": "a", "tier": "y"}, {"app": "a", "tier": "x"}, False),
        ({"app": "a"}, {}, False),
        ({}, {"app": "a"}, False),
    ],
)
def test_selectors(selector, labels, selected):
    assert matches(selector, labels) is selected


@pytest.mark.parametrize(
    ("annotation", "network"),
    [(None, "kube-system/dflt"), ("ns/net", "ns/net"), (" net\n", "kube-system/net"), ("", "kube-system/dflt")],
)
def test_the_network_of_a_pod(annotation, network):
    annotations = {} if annotation is None else {"v1.multus-cni.io/default-network": annotation}
    assert network_of({"metadata": {"annotations": annotations}}, "kube-system/dflt") == network


def test_cni_args_are_what_containerd_writes():
    pod = {"metadata": {"namespace": "default", "name": "p", "uid": "u"}}
    assert cni_args(pod, "c0ffee") == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=u"
    )


def test_endpoints_are_the_selected_pods_with_ipv4_addresses():
    pods = pods_of(APP_2, ["master", "worker"])
    result = {"ips": [{"address": "192.168.0.156/24"}, {"address": "fd00::1/64"}]}
    running = with_addresses(pods[0], addresses(result))
    stranger = with_addresses({**pods[1], "metadata": {**pods[1]["metadata"], "namespace": "other"}}, ["192.168.0.9"])
    service = {**SERVICE, "metadata": {**SERVICE["metadata"], "namespace": "default"}}
    [made] = endpoint_slices(
        {**service, "spec": {**service["spec"], "clusterIPs": ["10.0.0.1"]}}, [running, pods[1], stranger]
    )
    assert [item["addresses"] for item in made["endpoints"]] == [["192.168.0.156"]]
    assert made["endpoints"][0]["nodeName"] == "master"
    assert made["ports"] == [{"name": "", "protocol": "TCP", "port": 80}]
    assert made["metadata"]["labels"] == {"kubernetes.io/service-name": "test-svc"}


def test_suffixes_differ_and_look_like_kubernetes():
    assert len({suffix(number) for number in range(5000)}) == 5000
    assert suffix(0) == "bbbbb"


def test_the_pools_say_what_the_cloud_assigned():
    assert assigned_addresses(OBJECTS) == {
        ("master", "eth0"): ("172.31.199.185-172.31.199.189",),
        ("master", "eth1"): ("192.168.0.156-192.168.0.160",),
        ("worker", "eth0"): ("172.31.199.190-172.31.199.194",),
        ("worker", "eth1"): ("192.168.0.161-192.168.0.165",),
    }


def test_the_switch_ports_let_in_only_what_was_assigned():
    text = anti_spoofing([Port("master-eth0", MAC, ("172.31.199.183", "fd00::1", "172.31.199.185-172.31.199.189"))])
    assert f"ether saddr != {MAC} counter name foreign_mac_master_eth0 drop" in text
    assert "ip saddr { 172.31.199.183, 172.31.199.185-172.31.199.189 } " in text
    assert "ip6 saddr { fe80::/10, ::, fd00::1 } " in text
    assert "policy drop" in text


def test_the_store_folder_holds_the_objects_and_the_cluster_ip(tmp_path: Path):
    folder = StoreFolder(tmp_path, scenario.CLUSTER_IPS)
    for raw in OBJECTS:
        folder.apply(raw)
    text = (tmp_path / "Service.default.test-svc.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["spec"]["clusterIP"] == "10.233.23.194"
    assert "clusterIP" not in SERVICE["spec"]
    folder.sync_endpoints()
    assert folder.get("EndpointSlice", "default/test-svc-ipv4")["endpoints"] == []
    folder.delete("Service", "default/test-svc")
    assert not (tmp_path / "Service.default.test-svc.yaml").exists()
    assert not list(tmp_path.glob(".*.new"))


def frame(
    source: str, target: str, ports: tuple[int, int], flags: int, *, mac: str = MAC, outgoing: bool = True
) -> Frame:
    ethernet = bytes.fromhex("020000000001" + mac.replace(":", "") + "0800")
    packed = [bytes(map(int, address.split("."))) for address in (source, target)]
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, *packed)
    return Frame(1.25, outgoing, ethernet + ip + struct.pack("!HHIIBBHHH", *ports, 0, 0, 0x50, flags, 0, 0, 0))


def connection() -> list[Frame]:
    there = [frame(CLIENT, BACKEND, (40000, 80), flags) for flags in (0x02, 0x10, 0x18, 0x11)]
    gateway = "02:00:00:00:00:99"
    back = [frame(BACKEND, CLIENT, (80, 40000), f, mac=gateway, outgoing=False) for f in (0x12, 0x18, 0x11)]
    return [*there, *back]


def test_a_good_capture_passes():
    check_capture(connection(), CLIENT, BACKEND, MAC)


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([*connection(), frame(CLIENT, "10.233.23.194", (1, 80), 2)], "ClusterIP is on the wire"),
        ([*connection(), frame("10.233.23.194", CLIENT, (80, 1), 2, outgoing=False)], "ClusterIP is on the wire"),
        ([*connection(), frame(CLIENT, BACKEND, (1, 80), 2, mac="02:00:00:00:00:05")], "left with MAC"),
        (connection()[1:], "no whole connection"),
        (connection()[:4], "no whole connection"),
        ([], "no whole connection"),
    ],
)
def test_a_bad_capture_is_a_deviation(frames, text):
    with pytest.raises(Deviation, match=text):
        check_capture(frames, CLIENT, BACKEND, MAC)


def test_an_arp_request_for_the_cluster_ip_is_seen():
    arp = bytes.fromhex("ffffffffffff" + MAC.replace(":", "") + "0806" + "0001080006040001")
    arp += bytes(6) + bytes(map(int, CLIENT.split("."))) + bytes(6) + bytes([10, 233, 23, 194])
    with pytest.raises(Deviation, match="ClusterIP"):
        check_capture([*connection(), Frame(0.0, True, arp)], CLIENT, BACKEND, MAC)


def test_a_capture_is_written_as_pcap(tmp_path: Path):
    capture = Capture("unused", "eth0")
    capture.frames = connection()
    capture.write(tmp_path / "a.pcap")
    content = (tmp_path / "a.pcap").read_bytes()
    assert struct.unpack("<IHHiIII", content[:24]) == (0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
    assert struct.unpack("<IIII", content[24:40]) == (1, 250000, 54, 54)
    assert len(content) == 24 + 7 * (16 + 54)


def test_transfer_blocks_are_known_and_differ():
    assert web.block(3) == web.block(3) != web.block(4)
    assert len(web.block(3)) == web.BLOCK_BYTES


def test_a_story_goes_on_after_a_deviation_and_remembers_it(capsys):
    story = Story()
    with story.claim("water is wet"):
        pass
    with story.claim("the moon is cheese"):
        raise Deviation("it is rock\nbasalt, mostly")
    story.summary()
    assert story.failed == ["the moon is cheese"]
    text = capsys.readouterr().out
    assert "FAILED  the moon is cheese: it is rock\n" in text
    assert "1 of 2 claims hold." in text


@pytest.mark.parametrize("cut", [1, 3, 7, 1000])
def test_the_guests_markers_become_stages_and_the_rest_passes(cut: int, capsys):
    whole = b"boot noise\r\n@@guest is up@@\r\nmodules\n@@guest is ready@@\nout 1\nout @@2"
    chunks = iter([whole[start : start + cut] for start in range(0, len(whole), cut)])
    passed = b"".join(vm._after_markers(chunks, vm.Progress("a kernel")))
    assert passed == b"boot noise\nmodules\nout 1\nout @@2"
    stages = [line.split("s  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert stages[1:] == ["guest is up, loading modules", "running the command"]


def test_what_a_guest_printed_before_it_died_is_shown():
    assert b"".join(vm._after_markers(iter([b"kernel panic\n"]), vm.Progress("a kernel"))) == b"kernel panic\n"


def unpack(folder: Path, release: str, modules: str = "usr/lib/modules") -> Path:
    """What `dpkg -x` leaves of a kernel's package; its image."""
    image = folder / release / "boot" / f"vmlinuz-{release}"
    image.parent.mkdir(parents=True)
    image.touch()
    (folder / release / modules / release).mkdir(parents=True)
    return image


@pytest.fixture
def kernel_folder(monkeypatch, tmp_path: Path) -> Path:
    """An empty cache folder, and a machine with nothing in /boot."""
    monkeypatch.setenv(kernels.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(kernels, "_BOOT", tmp_path / "nothing")
    return tmp_path


def test_the_newest_kernel_of_a_series_is_chosen_by_number(kernel_folder: Path):
    for release in ("6.1.0-9-amd64", "6.1.0-56-amd64", "6.12.9+deb13-amd64", "6.12.57+deb13-amd64"):
        unpack(kernel_folder, release)
    assert [kernels.find(series).release for series in ("6.1", "6.12")] == ["6.1.0-56-amd64", "6.12.57+deb13-amd64"]
    assert kernels.find("6.2") is None
    assert "no Debian kernel 6.2" in kernels.unmet("6.2")


def test_a_kernel_in_boot_goes_before_a_fetched_one(kernel_folder: Path, monkeypatch):
    boot, modules = kernel_folder / "boot", kernel_folder / "modules"
    monkeypatch.setattr(kernels, "_BOOT", boot)
    monkeypatch.setattr(kernels, "_MODULES", modules)
    boot.mkdir()
    (boot / "vmlinuz-6.1.0-9-amd64").touch()
    unpack(kernel_folder, "6.1.0-56-amd64")
    assert kernels.find("6.1").release == "6.1.0-56-amd64"  # the one in /boot has no modules
    (modules / "6.1.0-9-amd64").mkdir(parents=True)
    assert kernels.find("6.1") == kernels.installed() == kernels.at(boot / "vmlinuz-6.1.0-9-amd64")


@pytest.mark.parametrize("modules", ["usr/lib/modules", "lib/modules"])
def test_modules_lie_beside_a_fetched_image(kernel_folder: Path, modules: str):
    kernel = kernels.at(unpack(kernel_folder, "6.12.9-amd64", modules))
    assert kernel.modules == kernel_folder / "6.12.9-amd64" / modules / "6.12.9-amd64"


def test_the_mirror_is_that_of_the_machines_own_release():
    targets = (
        "other http://a/b/\nbookworm-security http://a/sec/\nbookworm http://a/debian/\nbookworm http://b/debian/\n"
    )
    assert kernels.mirror_of(targets, "bookworm") == "http://a/debian/"
    assert kernels.mirror_of(targets, "book") is None
    assert kernels.mirror_of("", "bookworm") is None


def test_the_release_is_what_the_metapackage_depends_on():
    depends = "linux-image-amd64\n  Depends: linux-image-6.12.9+deb13-amd64\n  Recommends: linux-image-6.13-amd64\n"
    assert kernels.release_of(depends) == "6.12.9+deb13-amd64"
    assert kernels.release_of("linux-image-amd64\n  Depends: <linux-image>\n") is None


def test_a_fetched_kernel_shows_its_modules_in_the_guest(kernel_folder: Path):
    fetched = kernels.at(unpack(kernel_folder, "6.12.9-amd64"))
    shared = [Path("/scratch")]
    script = vm._init_script(["true"], {}, shared, fetched)
    link = f"ln -s /tmp/dragline-host{fetched.modules} /lib/modules/6.12.9-amd64"
    assert 0 < script.index("mount --bind /tmp/dragline-host/usr /usr") < script.index(link) < script.index("modprobe")
    own = kernels.Kernel(Path("/boot/vmlinuz-1"), "1", Path("/lib/modules/1"))
    assert "ln -s" not in vm._init_script(["true"], {}, shared, own)


def test_a_failed_fetch_says_what_the_command_said(monkeypatch, capsys, kernel_folder: Path):
    monkeypatch.setattr(kernels, "_mirror", lambda: kernels._output("sh", "-c", "echo no such host >&2; exit 100"))
    assert kernels.main() == 1
    assert capsys.readouterr().err.count("sh failed (100):\nno such host") == len(kernels.SUITES)
    assert list(kernel_folder.iterdir()) == []
