#!/bin/sh
# Runs berth for no argument, an option or one of its subcommands, and anything else as it stands: `docker run berth bash`.
set -eu

case ${1:-} in
  "" | -* | boot | plan | config | env | doctor | status | logs | sim | exec | control | router)
    exec berth "$@"
    ;;
  *)
    exec "$@"
    ;;
esac
