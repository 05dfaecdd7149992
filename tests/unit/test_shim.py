"""The real shim as a subprocess against a fake agent: every verb and version, odd input, and agents that misbehave."""

import json
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from cni.errors import BAD_CONFIG, BAD_ENVIRONMENT, TRY_AGAIN
from cni.frame import encode_answer
from cni.result import SUPPORTED_VERSIONS, render_versions
from tests.fakes.cni_agent import POD_ENV, Behaviour, FakeAgent, Seen, build_shim, hangs_up, run_shim, says

VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
QUICK = {"DRAGLINE_CONNECT_MS": "20"}


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def hasty_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("hasty"), "ANSWER_TIMEOUT_MS=200")


@pytest.fixture
def sock(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


def config(sock: Path, version: str = "1.0.0", **more: object) -> bytes:
    return json.dumps({"cniVersion": version, "name": "net", "type": "dragline", "socket": str(sock), **more}).encode()


def error_of(done: subprocess.CompletedProcess[bytes]) -> dict[str, object]:
    assert done.returncode == 1
    assert done.stderr == b""
    body: dict[str, object] = json.loads(done.stdout)
    return body


def test_the_executable_is_static_small_and_resolves_no_names(shim: Path) -> None:
    assert shim.stat().st_size < 1_000_000
    symbols = subprocess.run(["nm", shim], capture_output=True, text=True, check=True).stdout
    assert " main" in symbols
    for name in ("getaddrinfo", "gethostbyname", "getpwnam"):
        assert f" {name}\n" not in symbols
    headers = subprocess.run(["readelf", "-l", shim], capture_output=True, text=True, check=True).stdout
    assert "INTERP" not in headers


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_reaches_the_agent_and_its_answer_the_runtime(shim: Path, sock: Path, verb: str, version: str) -> None:
    before = time.monotonic_ns()
    content = config(sock, version)
    env = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=p", "CNI_PATH": "/opt/cni/bin"}
    with FakeAgent(sock, [says(0, b'{"ok":1}')]) as agent:
        done = run_shim(shim, verb, content, env)
    assert (done.returncode, done.stdout, done.stderr) == (0, b'{"ok":1}', b"")
    (seen,) = agent.seen
    frame = seen.frame
    assert (frame.command, frame.container_id, frame.ifname) == (verb, "c0ffee", "eth0")
    assert (frame.netns, frame.args, frame.path) == (POD_ENV["CNI_NETNS"], env["CNI_ARGS"], "/opt/cni/bin")
    assert frame.config == content
    assert before < frame.started_ns < time.monotonic_ns()
    status = Path("/proc/self/ns/net").stat()
    assert seen.netns == ((status.st_dev, status.st_ino) if verb in ("ADD", "DEL", "CHECK") else None)


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_version_needs_no_agent(shim: Path, version: str) -> None:
    done = run_shim(shim, "VERSION", json.dumps({"cniVersion": version}).encode(), QUICK)
    assert (done.returncode, done.stdout) == (0, render_versions(version))


@pytest.mark.parametrize("content", [b"", b"{", b"not json", b'{"socket":"relative"}', b"[" * 1000])
def test_version_needs_no_valid_configuration(shim: Path, content: bytes) -> None:
    done = run_shim(shim, "VERSION", content, QUICK)
    assert (done.returncode, done.stdout) == (0, render_versions(""))


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_the_agent_decides_the_exit_code(shim: Path, sock: Path, code: int) -> None:
    with FakeAgent(sock, [says(code, b"body")]):
        done = run_shim(shim, "ADD", config(sock))
    assert (done.returncode, done.stdout) == (code, b"body")


def test_an_exit_code_of_more_than_eight_bits_is_no_success(shim: Path, sock: Path) -> None:
    with FakeAgent(sock, [says(256, b"body")]):
        assert run_shim(shim, "ADD", config(sock)).returncode == 1


def test_a_large_answer_arrives_whole(shim: Path, sock: Path) -> None:
    body = os.urandom(500_000)
    with FakeAgent(sock, [says(0, body)]):
        done = run_shim(shim, "ADD", config(sock))
    assert done.stdout == body


def test_a_configuration_of_900_kb_arrives_whole(shim: Path, sock: Path) -> None:
    content = config(sock, padding="x" * 900_000)
    with FakeAgent(sock, [says(0, b"")]) as agent:
        assert run_shim(shim, "ADD", content).returncode == 0
    assert agent.seen[0].frame.config == content


def test_a_configuration_of_more_than_1_mib_is_refused_before_the_agent(shim: Path, sock: Path) -> None:
    with FakeAgent(sock, [says(0, b"")]) as agent:
        done = run_shim(shim, "ADD", config(sock, "0.4.0", padding="x" * (1 << 20)))
    assert error_of(done) | {"msg": ""} == {"cniVersion": "0.4.0", "code": BAD_CONFIG, "msg": ""}
    assert agent.seen == []


SCANNED = [
    ('{"cniVersion":"0.4.0","socket":"@"}', "0.4.0"),
    (' \n{ "socket" :\t"@" , "cniVersion" : "0.3.1" } ', "0.3.1"),
    ('{"a":{"cniVersion":"9.9.9","socket":"/x"},"socket":"@","cniVersion":"0.4.0"}', "0.4.0"),
    ('{"cniVersion":"0.4.0","socket":"@","z":{"cniVersion":"9.9.9","socket":"/x"}}', "0.4.0"),
    ('{"cniVersion":"0.4.0","socket":"@","z":[{"cniVersion":"9.9.9"},"socket","/x"]}', "0.4.0"),
    ('{"a":"cniVersion","b":"socket","socket":"@","cniVersion":"0.4.0"}', "0.4.0"),
    ('{"a":"\\"cniVersion\\":\\"9.9.9\\"","cniVersion":"0.4.0","socket":"@"}', "0.4.0"),
    ('{"a":"}{][\\\\","cniVersion":"0.4.0","socket":"@"}', "0.4.0"),
    ('{"cni\\u0056ersion":"0\\u002e4.0","sock\\u0065t":"@"}', "0.4.0"),
    ('{"cniVersion":"0.3.0","socket":"/x","cniVersion":"0.4.0","socket":"@"}', "0.4.0"),
    ('{"a":"\\ud83d\\ude00 \\u00e9 \U0001f600","cniVersion":"0.4.0","socket":"@"}', "0.4.0"),
    ('{"cniVersion":0.4,"socket":"@"}', "1.1.0"),
    ('{"cniVersion":null,"socket":"@"}', "1.1.0"),
    ('{"cniVersion":["0.4.0"],"socket":"@"}', "1.1.0"),
    ('{"cniVersion":"0.4\\"0","socket":"@"}', "1.1.0"),
    ('{"cniVersion":"' + "1" * 40 + '","socket":"@"}', "1.1.0"),
    ('{"' + "k" * 5000 + '":"cniVersion","cniVersion":"0.4.0","socket":"@"}', "0.4.0"),
    ('{"socket":"@","cniVersion":"0.4.0","broken', "0.4.0"),
]


@pytest.mark.parametrize(("text", "version"), SCANNED)
def test_the_scanner_sees_the_outermost_keys_only(shim: Path, sock: Path, text: str, version: str) -> None:
    content = text.replace("@", str(sock)).encode()
    with FakeAgent(sock, [says(0, b"seen")]):
        assert run_shim(shim, "ADD", content, QUICK).stdout == b"seen"
    away = error_of(run_shim(shim, "ADD", content, QUICK))
    assert (away["code"], away["cniVersion"]) == (TRY_AGAIN, version)


@pytest.mark.parametrize("name", ["relative/agent.sock", "/" + "x" * 107, "/zero\\u0000byte"])
def test_an_impossible_socket_is_a_configuration_error(shim: Path, name: str) -> None:
    done = run_shim(shim, "ADD", f'{{"cniVersion":"0.4.0","socket":"{name}"}}'.encode(), QUICK)
    body = error_of(done)
    assert (body["code"], body["cniVersion"]) == (BAD_CONFIG, "0.4.0")
    assert "socket" in str(body["msg"])


@pytest.mark.parametrize("content", [b"", b'{"cniVersion":"0.4.0","socket":""}', b"null", b"[]", b'"socket"'])
def test_without_a_socket_key_the_default_is_tried(shim: Path, content: bytes) -> None:
    body = error_of(run_shim(shim, "ADD", content, QUICK))
    assert body["code"] == TRY_AGAIN
    assert "/run/dragline/agent.sock" in str(body["msg"])


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "GC", "STATUS"])
@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_without_an_agent_the_runtime_is_told_to_try_again(shim: Path, sock: Path, verb: str, version: str) -> None:
    body = error_of(run_shim(shim, verb, config(sock, version), QUICK))
    assert (body["cniVersion"], body["code"]) == (version, TRY_AGAIN)
    assert list(sock.parent.iterdir()) == []


def test_a_stale_socket_counts_as_no_agent(shim: Path, sock: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(sock))
    assert error_of(run_shim(shim, "ADD", config(sock), QUICK))["code"] == TRY_AGAIN


def test_an_agent_that_appears_after_200_ms_is_met(shim: Path, sock: Path) -> None:
    agent = FakeAgent(sock, [says(0, b"late")])
    appears = threading.Timer(0.2, agent.__enter__)
    appears.start()
    begun = time.monotonic()
    done = run_shim(shim, "ADD", config(sock))
    took = time.monotonic() - begun
    appears.join()
    agent.__exit__(None, None, None)
    assert (done.returncode, done.stdout) == (0, b"late")
    assert 0.15 < took < 4.5


def test_the_retry_ends_after_its_budget(shim: Path, sock: Path) -> None:
    begun = time.monotonic()
    run_shim(shim, "ADD", config(sock), {"DRAGLINE_CONNECT_MS": "300"})
    assert 0.3 <= time.monotonic() - begun < 3.0


@pytest.mark.parametrize("verb", ["", "add", "status", "FOO"])
def test_an_unknown_verb_never_reaches_the_agent(shim: Path, sock: Path, verb: str) -> None:
    with FakeAgent(sock, [says(0, b"")]) as agent:
        body = error_of(run_shim(shim, verb, config(sock, "0.4.0")))
    assert (body["code"], body["cniVersion"]) == (BAD_ENVIRONMENT, "0.4.0")
    assert "CNI_COMMAND" in str(body["msg"])
    assert agent.seen == []


@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
def test_a_netns_that_cannot_be_opened_is_named(shim: Path, sock: Path, verb: str) -> None:
    with FakeAgent(sock, [says(0, b"")]) as agent:
        body = error_of(run_shim(shim, verb, config(sock), {"CNI_NETNS": '/no/such "netns"\n\xff'}))
    assert body["code"] == BAD_ENVIRONMENT
    assert 'CNI_NETNS: /no/such "netns"\n' in str(body["msg"])
    assert agent.seen == []


@pytest.mark.parametrize("path", ["", "/no/such/netns"])
def test_a_del_goes_on_without_its_netns(shim: Path, sock: Path, path: str) -> None:
    with FakeAgent(sock, [says(0, b"")]) as agent:
        assert run_shim(shim, "DEL", config(sock), {"CNI_NETNS": path}).returncode == 0
    assert (agent.seen[0].frame.netns, agent.seen[0].netns) == (path, None)


def stutters(client: socket.socket, _: Seen) -> None:
    for byte in encode_answer(0, b"slow but whole"):
        client.sendall(bytes([byte]))


def dies_mid_answer(client: socket.socket, _: Seen) -> None:
    client.sendall(encode_answer(0, b"x" * 1000)[:-1])


def speaks_another_language(client: socket.socket, _: Seen) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")


def promises_too_much(client: socket.socket, _: Seen) -> None:
    client.sendall(b"DRG1\0\0\0\0\xff\xff\xff\xff")


def test_an_answer_in_single_bytes_arrives_whole(shim: Path, sock: Path) -> None:
    with FakeAgent(sock, [stutters]):
        assert run_shim(shim, "ADD", config(sock)).stdout == b"slow but whole"


@pytest.mark.parametrize("behaviour", [hangs_up, dies_mid_answer, speaks_another_language, promises_too_much])
def test_half_an_answer_is_an_error_and_nothing_of_it_is_printed(shim: Path, sock: Path, behaviour: Behaviour) -> None:
    with FakeAgent(sock, [behaviour]):
        body = error_of(run_shim(shim, "ADD", config(sock, "0.4.0")))
    assert (body["code"], body["cniVersion"]) == (TRY_AGAIN, "0.4.0")


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_a_hanging_agent_is_left_after_the_answer_timeout(hasty_shim: Path, sock: Path, verb: str) -> None:
    released = threading.Event()

    def hangs(_: socket.socket, __: Seen) -> None:
        released.wait(10)

    with FakeAgent(sock, [hangs]):
        begun = time.monotonic()
        body = error_of(run_shim(hasty_shim, verb, config(sock)))
        took = time.monotonic() - begun
        released.set()
    assert body["code"] == TRY_AGAIN
    assert 0.2 <= took < 5.0
    assert (sock.parent / "spool" / "c0ffee-eth0.del").exists() == (verb == "DEL")
