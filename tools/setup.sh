#!/usr/bin/env bash
# Installs what the build and the tests need: system packages (apt) and pinned wheels in .venv.
# Idempotent: does nothing, in well under a second, when everything is there.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '[setup] %s\n' "$*"; }

missing=()
for package in $(grep -v '^#' tools/packages.txt); do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
  install=(apt-get install -y --no-install-recommends "${missing[@]}")
  if ((EUID == 0)); then
    say "apt-get install ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${install[@]}" >/dev/null
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    say "sudo apt-get install ${missing[*]}"
    sudo apt-get update -qq
    sudo DEBIAN_FRONTEND=noninteractive "${install[@]}" >/dev/null
  else
    say "system packages are missing; run this once, then make again:"
    say "  sudo apt-get update && sudo ${install[*]}"
    exit 2
  fi
fi

stamp=.venv/installed-$(cat tools/requirements.txt tools/requirements_no_deps.txt | sha256sum | cut -c1-16)
if [[ ! -e $stamp ]]; then
  python=${PYTHON:-python3.11}
  command -v "$python" >/dev/null || python=python3
  say "Python wheels into .venv (tools/requirements.txt), with $("$python" --version)"
  [[ -x .venv/bin/python ]] || "$python" -m venv .venv
  # torch first and alone: no later line may choose another build of it.
  .venv/bin/pip install --quiet --disable-pip-version-check "$(grep '^torch==' tools/requirements.txt)"
  .venv/bin/pip install --quiet --disable-pip-version-check -r tools/requirements.txt
  .venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r tools/requirements_no_deps.txt
  # Arrow's wheel holds libarrow.so.NN; the linker wants libarrow.so.
  .venv/bin/python -c 'import pyarrow; pyarrow.create_library_symlinks()'
  rm -f .venv/installed-*
  touch "$stamp"
fi
