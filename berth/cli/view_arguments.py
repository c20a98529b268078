"""Arguments of what shows something."""

import argparse

from berth.cli.arguments import Commands


def add_views(commands: Commands, json: argparse.ArgumentParser) -> None:
    """What shows something of a running Berth."""
    commands.add_parser("status", help="show the status of all replicas, and errors", parents=[json])
    top = commands.add_parser("top", help="show traffic, replicas and requests, live", parents=[json])
    top.add_argument("--once", action="store_true", help="print one frame, as where the output is no terminal")
    text = "of another machine's Berth; its key is read from BERTH_ADMIN_KEY or OPENAI_API_KEY"
    top.add_argument("--url", default="", metavar="URL", help=text)
    logs = commands.add_parser("logs", help="show the logs of the engines")
    logs.add_argument("replica", nargs="?", help="a replica (default: all)")
    logs.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="show the last N lines (default: 100)")
    logs.add_argument("-f", "--follow", action="store_true", help="keep showing new lines")
    connect = commands.add_parser("connect", help="print what to write into a client, or the list of clients")
    connect.add_argument("client", nargs="?", default="", metavar="CLIENT", help="one of the list")
    connect.add_argument("--model", default="", help="a name or alias (default: the first that fits)")
    connect.add_argument("--url", default="", help="how the client reaches this Berth (default: on this host)")
    connect.add_argument("--key", default="", help="one of BERTH_API_KEYS")


def add_revisions(commands: Commands, json: argparse.ArgumentParser) -> None:
    listed = commands.add_parser("revisions", help="show what served a model, since when and why", parents=[json])
    listed.add_argument("model", nargs="?", default="", metavar="MODEL", help="a name or alias (default: all)")
    diff = commands.add_parser("diff", help="show what differs between two revisions of a model")
    diff.add_argument("model", metavar="MODEL", help="a name or alias")
    diff.add_argument("numbers", nargs="*", type=int, metavar="N", help="two revisions, or one and the newest")


def add_keys(
    commands: Commands,
    run_dir: argparse.ArgumentParser,
    json: argparse.ArgumentParser,
) -> None:
    text = "make a key for a client or for the operator, or list the keys of clients"
    kinds = commands.add_parser("key", help=text).add_subparsers(dest="what", required=True, metavar="WHAT")
    new = kinds.add_parser("new", help="print a new key, and the line to add to BERTH_API_KEYS")
    new.add_argument("name", metavar="NAME", help="of the client")
    new.add_argument("--shell", action="store_true", help="print the key and its digest as shell variables")
    kinds.add_parser("list", help="show the names and limits of the keys")
    kinds.add_parser("admin", help="print a key for /admin that is valid for 12 hours")
    text = "show what clients used, by key and model"
    usage = commands.add_parser("usage", help=text)
    usage.add_argument("--by", choices=("key", "model", "day"), default="", help="only by one of them")
    usage.add_argument("--month", metavar="YYYY-MM", help="another month than this one")
    forms = usage.add_mutually_exclusive_group()
    forms.add_argument("--csv", dest="form", action="store_const", const="csv", default="", help="print CSV")
    forms.add_argument("--json", dest="form", action="store_const", const="json", help="print JSON")
    kinds.add_parser("read", help="read the files of the keys again (started by control)", parents=[run_dir])
    changes = commands.add_parser("audit", help="show what was changed, and by whom", parents=[json])
    changes.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="show the last N (default: 50)")


def add_capture(commands: Commands) -> None:
    from berth.boot.config.parsers import duration
    from berth.ipc.capture import MOST_REQUESTS, USUAL_S, parse_only

    capture = commands.add_parser("capture", help="keep requests and responses for a while, to look at them")
    todo = capture.add_subparsers(dest="do", required=True, metavar="WHAT")
    on = todo.add_parser("on", help="start")
    on.add_argument("--for", dest="for_s", type=duration, default=USUAL_S, metavar="TIME", help="10m; at most 1h")
    on.add_argument("--model", default="", help="only of this model")
    on.add_argument("--key", default="", metavar="NAME", help="only of this client")
    text = "all (the default), errors, or slow:5s"
    on.add_argument("--only", type=parse_only, default="all", metavar="WHICH", help=text)
    text = f"end after N requests (default and most: {MOST_REQUESTS})"
    on.add_argument("--max", dest="most", type=int, default=MOST_REQUESTS, metavar="N", help=text)
    todo.add_parser("off", help="end; what was captured is kept for an hour")
    todo.add_parser("clear", help="end, and forget what was captured")
    listing = todo.add_parser("list", help="show what was captured")
    listing.add_argument("--json", dest="form", action="store_const", const="json", default="text", help="print JSON")
    show = todo.add_parser("show", help="show one request")
    show.add_argument("id", metavar="ID", help="its x-request-id")
    show.add_argument("--as", dest="form", choices=("text", "curl", "json"), default="text", help="how to print it")


def add_route(commands: Commands, json: argparse.ArgumentParser) -> None:
    route = commands.add_parser("route", help="show the rules of BERTH_ROUTES, or which decides", parents=[json])
    route.add_argument("--explain", action="store_true", help="which rule decides about a request, and why not others")
    route.add_argument("--path", default="/v1/chat/completions", help="of the request (default: /v1/chat/completions)")
    route.add_argument("--model", help="the model that it names (default: as in its body)")
    route.add_argument("--key", default="", metavar="NAME", help="the name of its API key (default: none)")
    text = "one of its headers, as 'NAME: VALUE'; may be repeated"
    route.add_argument("-H", "--header", action="append", default=[], help=text)
    route.add_argument("-d", "--data", default="", metavar="JSON", help="its body, or @FILE (default: a short prompt)")
