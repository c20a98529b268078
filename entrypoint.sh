#!/bin/sh
# Runs berth for no argument, an option or one of its subcommands, and anything else as it stands: `docker run berth bash`.
# Berth does not run as root: in a container that was started as root this prepares its folders and becomes uid 10001.
set -eu

user=10001

warn() {
  echo "entrypoint.sh: $*" >&2
}

# Becomes the program as the user: no group besides its own, no capability, and no way to regain any.
exec_as_user() {
  exec setpriv --reuid=$user --regid=$user --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs -- "$@"
}

# The folder itself and nothing in it: what somebody has mounted there stays theirs.
give() {
  mkdir -p "$1" 2>/dev/null || true
  if (exec_as_user test -w "$1"); then return; fi
  if [ "$(stat -c %u "$1" 2>/dev/null)" = 0 ] && chown $user:$user "$1" 2>/dev/null; then return; fi
  warn "uid $user cannot write $1, and it could not be given to it. Do that outside: chown $user:$user FOLDER"
}

leave_root() {
  if ! (exec_as_user true) 2>/dev/null; then
    warn "started as root without the capabilities SETUID, SETGID and SETPCAP, so this cannot become uid $user and" \
      "continues as root. Remove --user 0, or keep those capabilities"
    return
  fi
  give "${BERTH_DATA:-/data}"
  give "${BERTH_RUN_DIR:-/run/berth}"
  exec_as_user "$@"
}

case ${1:-} in
"" | -* | boot | plan | config | env | doctor | status | top | logs | connect | load | unload | sleep | wake | restart | scale | pin | unpin | reload | operations | cancel | events | adapters | bench | key | usage | audit | revisions | diff | migrate | rollback | migration | migrations | shadow | capture | route | report | sim | exec | control | router | tracer | fetch | export | import)
  set -- berth "$@"
  ;;
esac
if [ "$1" = berth ] && [ "$(id -u)" = 0 ]; then leave_root "$@"; fi
exec "$@"
