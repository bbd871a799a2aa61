# Sourced by the other scripts: installs Debian packages that are missing.
#
#   need_packages PACKAGE...   returns when all are installed; says what it installs and why it can't

package_is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

need_packages() {
    local missing=() package
    if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
        missing_without_apt "$@"
        return
    fi
    for package in "$@"; do
        package_is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null 2>&1; then
            echo "missing packages: ${missing[*]}" >&2
            echo "installing them needs root; run: apt-get install ${missing[*]}" >&2
            exit 4
        fi
        as_root=(sudo)
    fi
    echo "installing packages: ${missing[*]}" >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
            --no-install-recommends "${missing[@]}" >/dev/null || {
        echo "apt-get could not install: ${missing[*]}" >&2
        exit 4
    }
}

# No apt-get: what a build needs is looked for by what it leaves on a system.
missing_without_apt() {
    local missing=() pair
    for pair in cmake:cmake cc:"a C compiler" make:make mpirun:"Open MPI"; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair#*:}")
    done
    for pair in cjson/cJSON.h:cJSON glpk.h:GLPK cblas.h:OpenBLAS; do
        echo "#include <${pair%%:*}>" | cc -E -x c - >/dev/null 2>&1 || missing+=("${pair#*:}")
    done
    if [ ${#missing[@]} -ne 0 ]; then
        echo "this system has no apt-get, and these are missing:" >&2
        printf '  %s\n' "${missing[@]}" >&2
        echo "install them (Debian calls them: $*) and start again" >&2
        exit 4
    fi
}

build_packages=(gcc libc6-dev cmake make libcjson-dev libglpk-dev libopenblas-pthread-dev
    libopenmpi-dev openmpi-bin)
test_packages=(libcmocka-dev libsimgrid-dev clang libclang-rt-dev)
