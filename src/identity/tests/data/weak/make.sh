#!/bin/sh
# Certificates by authorities with weak keys and digests, made by OpenSSL, which still can. The authorities' keys are not kept.
set -e
cd "$(dirname "$0")"
config='[req]
distinguished_name = dn
[dn]
[leaf]
subjectAltName = critical,URI:spiffe://a.example/ns/default/sa/web
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth,clientAuth
[ca]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign'
make() { # name digest key...
    name=$1 digest=$2
    shift 2
    work=$(mktemp -d)
    echo "$config" > "$work/config"
    openssl req -x509 -newkey "$@" -nodes -keyout "$work/ca.key" -out "$name-ca.pem" -days 36500 -subj "/O=$name" \
        -extensions ca -config "$work/config" "-$digest"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$work/key" -out "$work/csr" -subj / \
        -config "$work/config"
    openssl x509 -req -in "$work/csr" -CA "$name-ca.pem" -CAkey "$work/ca.key" -set_serial 77 -days 36500 \
        -extfile "$work/config" -extensions leaf -out "$name-leaf.pem" "-$digest"
    rm -r "$work"
}
make rsa-1024 sha256 rsa:1024
make rsa-2048-sha1 sha1 rsa:2048
make rsa-2048-md5 md5 rsa:2048
make rsa-pss sha256 rsa-pss -pkeyopt rsa_keygen_bits:2048
make p-192 sha256 ec -pkeyopt ec_paramgen_curve:prime192v1
make secp256k1 sha256 ec -pkeyopt ec_paramgen_curve:secp256k1
make rsa-2048 sha256 rsa:2048
