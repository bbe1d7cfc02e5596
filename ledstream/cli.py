"""The command line. Each command has the flags of the settings it reads; `LEDSTREAM_*` variables do the same."""

from __future__ import annotations

import argparse
import os
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ledstream.process import log_to_stderr
from ledstream.settings import PREFIX, Settings, SettingsError, read_settings

Parser = argparse.ArgumentParser
WHERE = ("log", "kafka_client", "store", "data_dir", "namespace", "partitions", "replication")
ERASURES = ("erasures_dir", "erasure_key")
SERVER = (
    "host",
    "port",
    "workers",
    "pin_workers",
    "kinds",
    "timeline_events",
    "idle_after_s",
    "max_event_ahead_s",
    "max_event_age_s",
    *("write_keys", "admin_key", "cors_origins", "events_per_s", "refuse_bots", "spool_mb", "spool_dir"),
    "probe_every_s",
    *ERASURES,
)
CONSUMER = (
    *("kinds", "timeline_events", "idle_after_s", "archive_flush_s", "metrics_port", "host"),
    *(*ERASURES, "compact_every_s", "spool_dir"),
)
TRAINING = (
    *("kinds", "half_life_s", "head_weights", "train_days", "train_half_life_s"),
    *("popularity_half_life_s", "popularity_bias", "keep_releases", "dim", "tune", "max_release_lag_s"),
    *ERASURES,
)
LIMITS = ("train_nice", "train_threads", "train_memory_mb")
TRIAL = ("canary_share", "canary_s")
WRITE_KEY = "a write key of the server (default: the first of LEDSTREAM_WRITE_KEYS, if that is set here)"

# Errors that are told in one line, by name: to import them all takes seconds, and somebody may wait for a rollback.
EXPECTED = frozenset(
    {
        "ledstream.settings.SettingsError",
        "store.connection.StoreUnavailable",
        "store.item_index.LowRecall",
        "store.releases.BadRelease",
        "store.releases.UnknownRelease",
        "stream.announcements.NoSuchStep",
        "stream.log.LogUnavailable",
        "stream.log.LogWentBack",
        "stream.log.UnknownTopic",
        "stream.replay.ReplayError",
        "training.benchmarks.case.NoBenchmark",
        "training.finetune.run.Diverged",
        "training.memory.TooLittleMemory",
        "training.pmi.TooLarge",
        "training.train.TooFewEvents",
    }
)


@dataclass(frozen=True)
class Command:
    """One command: its words, help, the settings it reads, further arguments, and what it runs (returns exit code)."""

    name: str
    help: str
    run: Callable[[Settings, argparse.Namespace], int]
    settings: Sequence[str] = ()
    arguments: Callable[[Parser], object] = field(default=lambda _: None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Expected errors are one line on standard error and exit code 2."""
    words = sys.argv[1:] if argv is None else argv
    arguments = _parser(words[0] if words else "").parse_args(words)
    command: Command = arguments.command
    log_to_stderr()
    try:
        flags = {name: getattr(arguments, name, None) for name in command.settings}
        return command.run(read_settings(os.environ, flags), arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not _is_expected(error):
            raise
        sys.stderr.write(f"ledstream {command.name}: {error}\n")
        return 2


def _is_expected(error: Exception) -> bool:
    """Whether its message is all a user needs; anything else is ours to mend and keeps its traceback."""
    return not EXPECTED.isdisjoint(f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)


def _up(settings: Settings, _: argparse.Namespace) -> int:
    from ledstream import up

    up.run(settings)
    return 0


def _serve(settings: Settings, _: argparse.Namespace) -> int:
    from ledstream import serve

    serve.run(settings)
    return 0


def _consume(settings: Settings, arguments: argparse.Namespace) -> int:
    from ledstream import consume

    run = {"timelines": consume.run_timelines, "archive": consume.run_archive, "catalogue": consume.run_catalogue}
    run[arguments.consumer](settings)
    return 0


def _train(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.every:
        from ledstream import schedule

        if not settings.retrain_every:
            raise SettingsError("--every needs LEDSTREAM_RETRAIN_EVERY (--retrain-every) above 0")
        schedule.run_forever(settings)
        return 0
    from ledstream import limits

    limits.give_way(settings)
    from ledstream import train_command

    print(train_command.run_once(settings))
    return 0


def _evaluate(settings: Settings, arguments: argparse.Namespace) -> int:
    from ledstream import evaluate_command

    wanted = (arguments.benchmark, arguments.dims)
    evaluate_command.run(settings, *wanted, models=arguments.models, as_json=arguments.json)
    return 0


def _replay(settings: Settings, arguments: argparse.Namespace) -> int:
    from ledstream import traffic_commands

    file, rate, key = arguments.file, arguments.rate, arguments.key
    return traffic_commands.replay(settings, file, rate, as_recorded=arguments.as_recorded, key=key)


def _simulate(settings: Settings, arguments: argparse.Namespace) -> int:
    from ledstream import traffic_commands

    return traffic_commands.simulate(settings, arguments.rate, arguments.for_s, arguments.seed, arguments.key)


def _demo(settings: Settings, arguments: argparse.Namespace) -> int:  # noqa: ARG001
    from ledstream import demo

    return demo.run(for_s=arguments.for_s, data=arguments.data, started_at=arguments.started_at)


def _releases(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.action == "rollback":
        from ledstream import rollback_command

        return rollback_command.run(settings)
    from ledstream import releases_command

    return releases_command.run(settings, arguments.action, arguments.version, force=arguments.force)


def _canary(settings: Settings, arguments: argparse.Namespace) -> int:
    from ledstream import canary_command

    return canary_command.run(settings, arguments.action, arguments.version)


def _rebuild(settings: Settings, arguments: argparse.Namespace) -> int:
    from ledstream import rebuild_command

    return rebuild_command.run(settings, arguments.source)


def _run_of(name: str) -> Callable[[Settings, argparse.Namespace], int]:
    """Of a command with a module of its own, imported once it is wanted."""
    return lambda settings, arguments: int(import_module(f"ledstream.{name}_command").run(settings, arguments))


def _arguments_of(name: str) -> Callable[[Parser], object]:
    return lambda parser: import_module(f"ledstream.{name}_command").add_arguments(parser)


def _doctor(settings: Settings, arguments: argparse.Namespace) -> int:
    from ledstream import doctor

    return doctor.run(settings, arguments.only)


def _above_0(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _dimension(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 4096:
        raise argparse.ArgumentTypeError(f"{text} is not a dimension from 1 to 4096")
    return number


def _consume_arguments(parser: Parser) -> None:
    parser.add_argument("consumer", choices=("timelines", "archive", "catalogue"), help="which consumer")


def _train_arguments(parser: Parser) -> None:
    parser.add_argument("--every", action="store_true", help="train again and again, each LEDSTREAM_RETRAIN_EVERY")


def _evaluate_arguments(parser: Parser) -> None:
    parser.add_argument("--benchmark", default="archive", help="archive (default), or a published one: gowalla, ...")
    parser.add_argument("--dims", type=_dimension, nargs="+", metavar="D", help="dimensions, a row each")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="these models of a published benchmark alone")
    parser.add_argument("--json", action="store_true", help="one JSON object a row instead of a table")


def _replay_arguments(parser: Parser) -> None:
    parser.add_argument("file", type=Path, help="Parquet file of events; columns are recognised by name")
    parser.add_argument("--rate", type=_above_0, help="events per second; default: as fast as the server takes them")
    parser.add_argument("--as-recorded", action="store_true", help="keep the recorded times instead of now")
    parser.add_argument("--key", help=WRITE_KEY)


def _simulate_arguments(parser: Parser) -> None:
    parser.add_argument("--rate", type=_above_0, default=200.0, help="events per second (default 200)")
    parser.add_argument("--for", dest="for_s", type=float, metavar="S", help="seconds; default: until Ctrl-C")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other shoppers (default 1)")
    parser.add_argument("--key", help=WRITE_KEY)


def _demo_arguments(parser: Parser) -> None:
    parser.add_argument("--for", dest="for_s", type=float, metavar="S", help="seconds; default: until Ctrl-C")
    parser.add_argument("--data", type=Path, help="a Parquet file of real events instead of simulated shoppers")
    parser.add_argument("--started-at", type=float, metavar="UNIX_S", help="when the clock of first_answer_s began")


def _releases_arguments(parser: Parser) -> None:
    parser.add_argument("action", nargs="?", choices=("list", "activate", "show", "rollback"), default="list")
    parser.add_argument("version", nargs="?", help="which release, for show and activate")
    parser.add_argument("--force", action="store_true", help="activate a release although its gate refused it")


def _rebuild_arguments(parser: Parser) -> None:
    told = "which events; default: the archive where it reaches further back, the log otherwise"
    parser.add_argument("--from", dest="source", choices=("archive", "log"), help=told)


def _doctor_arguments(parser: Parser) -> None:
    parts = ("packages", "store", "log", "server", "consumer")
    parser.add_argument("--only", choices=parts, help="one part; consumer: the one on LEDSTREAM_METRICS_PORT")


COMMANDS = (
    Command(
        "up",
        "run the whole system on this machine",
        _up,
        (*WHERE, *SERVER, *TRAINING, *LIMITS, *TRIAL, "config", "archive_flush_s", "retrain_every", "compact_every_s"),
    ),
    Command("serve", "run the HTTP server", _serve, (*WHERE, *SERVER)),
    Command("consume", "run one consumer", _consume, (*WHERE, *CONSUMER), _consume_arguments),
    Command(
        "train",
        "train a release on the archive and make it current",
        _train,
        (*WHERE, *TRAINING, *LIMITS, *TRIAL, "config", "retrain_every"),
        _train_arguments,
    ),
    Command(
        "evaluate",
        "measure the model on held-out users and events",
        _evaluate,
        ("data_dir", *TRAINING),
        _evaluate_arguments,
    ),
    Command("replay", "send recorded events to a running server", _replay, ("host", "port"), _replay_arguments),
    Command(
        "simulate",
        "send a seeded simulation of shoppers to a running server",
        _simulate,
        ("host", "port"),
        _simulate_arguments,
    ),
    Command("demo", "run everything with traffic, and measure it", _demo, (), _demo_arguments),
    Command(
        "releases",
        "list releases, show one, make one current, or go back to the one before (rollback)",
        _releases,
        (*WHERE, "kinds"),
        _releases_arguments,
    ),
    Command(
        "canary",
        "try a release on a share of the users: start, status, promote, stop, judge",
        _canary,
        (*WHERE, *TRIAL, "kinds", "idle_after_s"),
        _arguments_of("canary"),
    ),
    Command(
        "rebuild",
        "make all user records anew, from the archive or the log",
        _rebuild,
        (*WHERE, *ERASURES, "kinds", "timeline_events", "idle_after_s"),
        _rebuild_arguments,
    ),
    Command(
        "deadletters",
        "list records nobody could read, or replay them",
        _run_of("deadletters"),
        (*WHERE, *ERASURES),
        _arguments_of("deadletters"),
    ),
    Command(
        "badrows",
        "list events that were refused at the border, or replay them",
        _run_of("badrows"),
        (*WHERE, *ERASURES, "kinds", "max_event_ahead_s", "max_event_age_s"),
        _arguments_of("badrows"),
    ),
    Command(
        "items", "put what a file says of items into the catalogue", _run_of("items"), WHERE, _arguments_of("items")
    ),
    Command(
        "erasures",
        "list who was erased, compact the archive, verify that nothing is left, check a receipt",
        _run_of("erasures"),
        (*WHERE, *ERASURES, "idle_after_s", "spool_mb", "spool_dir"),
        _arguments_of("erasures"),
    ),
    Command(
        "doctor",
        "check addresses, topics, lag, memory and releases, and say what to do",
        _doctor,
        (*WHERE, *SERVER, "metrics_port"),
        _doctor_arguments,
    ),
)


def _parser(wanted: str) -> Parser:
    """Only the command that is wanted has its arguments: to know them, others import much."""
    parser = argparse.ArgumentParser(
        prog="ledstream",
        description="A streaming recommender. Settings come from LEDSTREAM_* variables; flags of the same names win.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help, description=command.help.capitalize() + ".")
        if command.name != wanted:
            continue
        command.arguments(sub)
        sub.set_defaults(command=command)
        group = sub.add_argument_group("settings")
        for name in dict.fromkeys(command.settings):
            _add_setting(group, name)
    return parser


def _add_setting(group: Any, name: str) -> None:
    described = Settings.model_fields[name]
    default = described.get_default()
    shown = ",".join(f"{k}={v:g}" for k, v in default.items()) if isinstance(default, dict) else default
    shown = ",".join(map(str, shown)) if isinstance(shown, tuple) else shown
    text = f"{described.description} (default {shown!s}; {PREFIX}{name.upper()})".replace("(default ;", "(")
    flag = "--" + name.replace("_", "-")
    if typing.get_origin(described.annotation) is None and described.annotation is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        group.add_argument(flag, default=None, metavar=name.rsplit("_", 1)[-1].upper(), help=text.replace("%", "%%"))
