"""Flags, environment and defaults of `dragline agent`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from agent import config


def parsed(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    return parser.parse_args(flags)


def test_defaults_apply_when_nothing_else_is_given() -> None:
    built = config.build(parsed("--store=dir:/manifests", "--node-name=worker"), {})
    assert built == config.Config(node_name="worker", store=Path("/manifests"))
    assert built.spool == Path("/run/dragline/spool")
    assert built.journal == Path("/run/dragline/attachments.journal")


def test_a_flag_wins_over_the_environment() -> None:
    environment = {"DRAGLINE_NODE_NAME": "from-env", "DRAGLINE_STORE": "dir:/env", "DRAGLINE_COOLDOWN_S": "5"}
    built = config.build(parsed("--node-name=from-flag"), environment)
    assert (built.node_name, built.store, built.cooldown_s) == ("from-flag", Path("/env"), 5.0)


def test_flags_of_a_config_build_it_again() -> None:
    built = config.build(
        parsed(
            "--store=dir:/m",
            "--node-name=n",
            "--cooldown-s=1.5",
            "--default-network=kube-system/ipvlan-eth0",
            "--socket-lb=off",
        ),
        {},
    )
    assert built.socket_lb == "off"
    assert config.build(parsed(*config.argument_list(built)), {}) == built


def test_service_cidrs_are_a_list_of_subnets_of_both_families() -> None:
    built = config.build(
        parsed("--store=dir:/m", "--datapath=netlink", "--service-cidr=10.96.0.9/12, fd00:96::/108,10.96.0.0/12"), {}
    )
    assert (built.datapath, built.service_cidr) == ("netlink", ("10.96.0.0/12", "fd00:96::/108"))
    assert config.build(parsed(*config.argument_list(built)), {}) == built


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], "--store"),
        (["--store=dir:"], "--store"),
        (["--store=/manifests"], "dir:PATH"),
        (["--store=dir:/m", "--cooldown-s=soon"], "--cooldown-s"),
        (["--store=dir:/m", "--cooldown-s=-1"], "--cooldown-s"),
        (["--store=dir:/m", "--deadline-s=99999"], "--deadline-s"),
        (["--store=dir:/m", "--log-level=loud"], "--log-level"),
        (["--store=dir:/m", "--socket-lb=maybe"], "--socket-lb"),
        (["--store=dir:/m", "--default-network=ipvlan-eth0"], "--default-network"),
        (["--store=dir:/m", "--datapath=xdp"], "--datapath"),
        (["--store=dir:/m", "--service-cidr=10.96.0.0/33"], "--service-cidr"),
        (["--store=dir:/m", "--service-cidr=10.96.0.0/12,services"], "--service-cidr"),
    ],
)
def test_bad_settings_are_refused_by_name(flags: list[str], named: str) -> None:
    with pytest.raises(config.ConfigError, match=named):
        config.build(parsed(*flags), {})


def test_the_socket_of_the_commands_comes_from_flag_or_environment() -> None:
    assert config.socket_path(None, {}) == config.DEFAULT_SOCKET
    assert config.socket_path(None, {"DRAGLINE_SOCKET": "/e"}) == Path("/e")
    assert config.socket_path("/f", {"DRAGLINE_SOCKET": "/e"}) == Path("/f")
