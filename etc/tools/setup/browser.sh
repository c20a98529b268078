#!/usr/bin/env bash
# Makes .browser: Playwright and axe, which judge the page at /ui/ in a real browser, for `make page-test`, and Pillow
# for `make screenshots`. The browser is the system's Chromium; on a Debian it is installed if it is missing, by root.
# Does nothing when all of that is done.
set -euo pipefail

cd "$(dirname "$0")/../../.."
uv=etc/tools/setup/uv.sh
browser=$PWD/.browser
stamp=$browser/.installed
packages=(playwright==1.65.2 axe-playwright-python==0.1.8 pillow==13.0.0 pytest pytest-timeout)

if ! command -v chromium >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "page-test needs Chromium. Debian: apt-get install chromium" >&2
    exit 1
  fi
  apt-get update -qq && apt-get install -y -qq chromium fonts-noto-color-emoji
fi

wanted() {
  sha256sum etc/tools/setup/browser.sh
  echo "$browser" # an environment does not survive a move
}

if [ "$(wanted)" = "$(cat "$stamp" 2>/dev/null)" ]; then exit 0; fi
echo "browser: installing into .browser ..."
$uv venv --quiet --clear "$browser"
$uv pip install --quiet --python "$browser/bin/python" "${packages[@]}"
wanted >"$stamp"
echo "browser: installed."
