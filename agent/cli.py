"""`dragline`: the daemon and the commands that talk to it.

Exit codes: 0 done, 1 refused or not ready, 2 usage, 3 the agent is away.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agent import client, config, flow_tables, log, service_asked, service_tables, tables, trace_text

EXIT_OK, EXIT_PROBLEM, EXIT_USAGE, EXIT_AWAY = 0, 1, 2, 3
DEFAULT_LIMIT = 1000


def _nothing(given: argparse.Namespace) -> dict[str, Any]:
    del given
    return {}


def _no_flags(parser: argparse.ArgumentParser) -> None:
    del parser


def _done(answer: Any) -> int:
    del answer
    return EXIT_OK


@dataclass(frozen=True, slots=True)
class Question:
    """One command that asks the agent: flags, the control verb's arguments, the answer as text and as exit code."""

    help: str
    text: Callable[[argparse.Namespace, Any], str]
    flags: Callable[[argparse.ArgumentParser], None] = _no_flags
    arguments: Callable[[argparse.Namespace], dict[str, Any]] = _nothing
    exit_code: Callable[[Any], int] = _done


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command == "agent":
        return _agent(given, parser)
    question = QUESTIONS[given.command]
    try:
        answer = client.ask(config.socket_path(given.socket), given.command, question.arguments(given))
    except client.AgentAway as error:
        print(f"dragline: {error}", file=sys.stderr)
        return EXIT_AWAY
    except client.AgentRefused as error:
        print(f"dragline: the agent says: {error}", file=sys.stderr)
        return EXIT_PROBLEM
    text = json.dumps(answer, indent=2) if given.output == "json" else question.text(given, answer)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `dragline conntrack | head`
        sys.stdout = None  # or the interpreter would complain about the same at its end
    return question.exit_code(answer)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dragline", description="eBPF/netlink node datapath agent for Kubernetes")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    agent = commands.add_parser("agent", help="run the node agent (root)")
    config.add_flags(agent)
    for name, question in QUESTIONS.items():
        command = commands.add_parser(name, help=question.help, description=question.help)
        question.flags(command)
        command.add_argument("--socket", help=f"the agent's socket (default: {config.DEFAULT_SOCKET})")
        command.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return parser


def _service_flags(parser: argparse.ArgumentParser) -> None:
    told = "one Service with its backends: NAMESPACE/NAME, NAME (in default), or one of its addresses"
    parser.add_argument("service", nargs="?", type=_service, metavar="SERVICE", help=told)


def _flow_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pod", default="", help="flows of this pod: NAMESPACE/NAME, NAME, or an address")
    parser.add_argument("--service", type=_service, help="flows to this Service, or to an address and port")
    told = f"most flows to show (default: {DEFAULT_LIMIT}; 0: all)"
    parser.add_argument("--limit", type=_count, default=DEFAULT_LIMIT, metavar="N", help=told)


def _drop_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--all", action="store_true", help="also what did not happen, and verdicts of packets that passed"
    )


def _trace_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pod", metavar="POD", help="a pod of this node: NAMESPACE/NAME, NAME, or an address")
    told = "NAMESPACE/NAME, NAME (in the pod's namespace, then default), or an address"
    parser.add_argument("service", type=_service, metavar="SERVICE[:PORT][/PROTOCOL]", help=told)


def _service(text: str) -> str:
    try:
        service_asked.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of flows")
    return int(text)


def _traced(given: argparse.Namespace) -> dict[str, Any]:
    asked = service_asked.parse(given.service)
    return {"pod": given.pod, "name": asked.name, "port": asked.port, "protocol": asked.protocol}


QUESTIONS: dict[str, Question] = {
    "status": Question(
        "what the agent holds and what is wrong",
        lambda _, answer: tables.status(answer),
        exit_code=lambda answer: EXIT_OK if answer["ready"] else EXIT_PROBLEM,
    ),
    "pools": Question(
        "the pools, as `kubectl get spiderippool` prints them",
        lambda _, answer: tables.pools(answer),
    ),
    "services": Question(
        "what pods may call: frontends, their backends and how often they were called",
        lambda _, answer: service_tables.services(answer),
        _service_flags,
        lambda given: {"service": given.service or ""},
    ),
    "conntrack": Question(
        "the translated flows of this node's pods",
        lambda given, answer: flow_tables.conntrack(answer, given.limit),
        _flow_flags,
        lambda given: {"pod": given.pod, "service": given.service or "", "limit": given.limit},
    ),
    "drops": Question(
        "packets dropped, by reason, since the maps were made",
        lambda given, answer: flow_tables.drops(answer, everything=given.all),
        _drop_flags,
    ),
    "trace": Question(
        "the way of a pod's next packet to a Service: what each stage decides, and why",
        lambda _, answer: trace_text.trace(answer),
        _trace_flags,
        _traced,
    ),
}


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
