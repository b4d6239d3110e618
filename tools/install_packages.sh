#!/bin/bash
# Installs the Debian/Ubuntu packages that a make target needs, and only those that are missing.
#
#   tools/install_packages.sh build          what compiling needs
#   tools/install_packages.sh build check    and what the checks need
#   tools/install_packages.sh build fuzz     and what fuzzing needs
set -euo pipefail

build=(build-essential cmake ninja-build pkg-config python3
       libcli11-dev libspdlog-dev libfmt-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev
       libgtest-dev librapidcheck-dev libbenchmark-dev)
check=(clang-format-14 clang-tidy-14 python3-venv ca-certificates)
fuzz=(clang-14 libclang-rt-14-dev)

wanted=()
for set in "$@"; do
  case $set in
    build) wanted+=("${build[@]}") ;;
    check) wanted+=("${check[@]}") ;;
    fuzz) wanted+=("${fuzz[@]}") ;;
    *) echo "install_packages.sh: unknown set '$set'; there are: build, check, fuzz" >&2; exit 2 ;;
  esac
done

missing=()
for package in "${wanted[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

as_root=()
if [[ $(id -u) != 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "These packages are missing and only root may install them: ${missing[*]}" >&2
    echo "Run as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
  # Without a terminal nobody can type a password: say so at once.
  [[ -t 0 ]] || as_root+=(-n)
fi

echo "Installing: ${missing[*]}" >&2
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0)
if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; } >&2; then
  echo "These packages could not be installed: ${missing[*]}" >&2
  exit 1
fi
