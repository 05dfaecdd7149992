"""`dragline`: the daemon and the commands that talk to it.

Exit codes: 0 done, 1 refused or not ready, 2 usage, 3 the agent is away.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

from agent import client, config, log, tables

EXIT_OK, EXIT_PROBLEM, EXIT_USAGE, EXIT_AWAY = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command == "agent":
        return _agent(given, parser)
    try:
        answer = client.ask(config.socket_path(given.socket), given.command)
    except client.AgentAway as error:
        print(f"dragline: {error}", file=sys.stderr)
        return EXIT_AWAY
    except client.AgentRefused as error:
        print(f"dragline: the agent says: {error}", file=sys.stderr)
        return EXIT_PROBLEM
    if given.output == "json":
        print(json.dumps(answer, indent=2))
    elif given.command == "pools":
        print(tables.pools(answer))
    else:
        print(tables.status(answer))
    return EXIT_PROBLEM if given.command == "status" and not answer["ready"] else EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dragline", description="eBPF/netlink node datapath agent for Kubernetes")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    agent = commands.add_parser("agent", help="run the node agent (root)")
    config.add_flags(agent)
    for name, help_text in (
        ("status", "what the agent holds and what is wrong"),
        ("pools", "the pools, as `kubectl get spiderippool` prints them"),
    ):
        command = commands.add_parser(name, help=help_text)
        command.add_argument("--socket", help=f"the agent's socket (default: {config.DEFAULT_SOCKET})")
        command.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return parser


def _agent(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        settings = config.build(given)
    except config.ConfigError as error:
        parser.error(str(error))
    log.configure(settings.log_level)
    # Imported here: the commands that only ask need none of the kernel's libraries.
    import uvloop

    from agent import daemon

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(daemon.run(settings))
    except daemon.StartError as error:
        print(f"dragline agent: {error}", file=sys.stderr)
        return EXIT_PROBLEM


if __name__ == "__main__":
    sys.exit(main())
