"""A container as a runtime sees it: the calls of the real shim for it, and what the kernel shows in its namespace."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import dataclass, replace
from typing import Any

from cni import frame
from tests.testbed import netns
from tests.testbed.kubelet import SHIM

Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call of the shim gave: exit code, stdout as bytes and (if it is JSON) decoded."""

    exit_code: int
    stdout: bytes

    @property
    def body(self) -> Raw:
        """The decoded stdout; {} when it is empty."""
        decoded: Raw = json.loads(self.stdout) if self.stdout else {}
        return decoded

    @property
    def code(self) -> int:
        """The CNI error number; 0 for success."""
        return int(self.body["code"]) if self.exit_code else 0

    @property
    def text(self) -> str:
        """The error's words."""
        return f"{self.body.get('msg', '')} {self.body.get('details', '')}"

    @property
    def addresses(self) -> list[str]:
        """The addresses "a/b" of a result."""
        assert self.exit_code == 0, self.stdout
        return [item["address"] for item in self.body["ips"]]


@dataclass(frozen=True, slots=True)
class Container:
    """A sandbox and what the runtime says about it."""

    id: str
    netns: str
    config: Raw
    ifname: str = "eth0"
    args: str = ""

    @property
    def path(self) -> str:
        """CNI_NETNS."""
        return str(netns.path_of(self.netns))

    def configured(self, **changes: Any) -> Container:
        """The same container with other keys in its network configuration."""
        return replace(self, config={**self.config, **changes})

    def call(self, verb: str, **environment: str) -> Answer:
        """Run the shim to its end."""
        process = self.spawn(verb, **environment)
        stdout, stderr = process.communicate(timeout=60)
        assert not stderr, stderr
        return Answer(process.returncode, stdout)

    def spawn(self, verb: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start the shim as a runtime does, its configuration written."""
        given = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": self.id,
            "CNI_NETNS": self.path,
            "CNI_IFNAME": self.ifname,
            "CNI_ARGS": self.args,
            "CNI_PATH": str(SHIM.parent),
            **environment,
        }
        pipe = subprocess.PIPE
        process = subprocess.Popen([str(SHIM)], env=given, stdin=pipe, stdout=pipe, stderr=pipe)
        assert process.stdin is not None
        process.stdin.write(json.dumps(self.config).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def call_as_of(self, started_ns: int, verb: str) -> Answer:
        """The same call as the shim's, from a client that started at another time."""
        words = frame.Frame(
            command=verb,
            container_id=self.id,
            netns=self.path,
            ifname=self.ifname,
            args=self.args,
            path="",
            config=json.dumps(self.config).encode(),
            started_ns=started_ns,
        )
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(30)
                client.connect(str(self.config["socket"]))
                socket.send_fds(client, [frame.encode(words)], [descriptor])
                answer = b"".join(iter(lambda: client.recv(65536), b""))
        finally:
            os.close(descriptor)
        return Answer(*frame.decode_answer(answer))

    def link(self) -> Raw:
        """`ip -j -d addr show` of the container's link; {} when it has none."""
        found = json.loads(netns.run(["ip", "-n", self.netns, "-j", "-d", "addr", "show"]))
        return next((item for item in found if item.get("ifname") == self.ifname), {})

    def links(self) -> list[str]:
        """The names of all links of a namespace but lo."""
        found = json.loads(netns.run(["ip", "-n", self.netns, "-j", "link", "show"]))
        return [item["ifname"] for item in found if item["ifname"] != "lo"]

    def addresses(self) -> list[str]:
        """The global addresses "a/b" that the kernel has on the container's link."""
        found = self.link().get("addr_info", [])
        return [f"{item['local']}/{item['prefixlen']}" for item in found if item["scope"] == "global"]

    def routes(self, family: int = 4) -> list[Raw]:
        """`ip -j route` of the self."""
        found: list[Raw] = json.loads(netns.run(["ip", f"-{family}", "-n", self.netns, "-j", "route"]))
        return found
