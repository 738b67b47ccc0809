#!/bin/sh
# The steps of the Dockerfile that depend on the machine and on the target.
#   target.sh install      what cross-compiling needs, if the target is not this machine
#   target.sh stub         a package with the dependencies of ours and no code
#   target.sh build        the release binary
#   target.sh image DIR    the root directory of the image
set -eu
here=$(uname -m)
case ${TARGETARCH:-} in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    "") machine=$here ;;
    *) echo "no image is built for $TARGETARCH" >&2; exit 1 ;;
esac
target=$machine-unknown-linux-gnu
case $machine in
    x86_64) loader=/lib64/ld-linux-x86-64.so.2 debian=amd64 ;;
    aarch64) loader=/lib/ld-linux-aarch64.so.1 debian=arm64 ;;
esac
libraries=/lib/$machine-linux-gnu
cross=
if [ "$machine" != "$here" ]; then
    cross=yes
    # Where Debian's cross-compiler has the C library of the target.
    libraries=/usr/$machine-linux-gnu/lib
    upper=$(echo "$target" | tr a-z- A-Z_)
    lower=$(echo "$target" | tr - _)
    export "CARGO_TARGET_${upper}_LINKER=$machine-linux-gnu-gcc" "CC_${lower}=$machine-linux-gnu-gcc"
fi

case $1 in
    install)
        if [ -n "$cross" ]; then
            apt-get update
            apt-get install --yes --no-install-recommends "gcc-$(echo $machine | tr _ -)-linux-gnu" "libc6-dev-$debian-cross"
            rustup target add "$target"
        fi
        ;;
    stub)
        mkdir -p src tests/it benches
        touch src/lib.rs tests/it/main.rs
        for main in build.rs src/main.rs; do echo 'fn main() {}' > "$main"; done
        # Cargo wants the file of each target that Cargo.toml names.
        sed -n '/^\[\[bench\]\]/,/^$/s/^name = "\(.*\)"$/\1/p' Cargo.toml | while read -r bench; do
            echo 'fn main() {}' > "benches/$bench.rs"
        done
        ;;
    build)
        cargo build --release --locked --bin causality --target "$target"
        ;;
    image)
        mkdir -p "$2/usr/bin" "$2/etc/ssl/certs" "$2/tmp" "$2$(dirname "$loader")" "$2/lib/$machine-linux-gnu"
        chmod 1777 "$2/tmp"
        cp "target/$target/release/causality" "$2/usr/bin/"
        cp /etc/ssl/certs/ca-certificates.crt "$2/etc/ssl/certs/"
        for library in libc.so.6 libm.so.6 libgcc_s.so.1; do
            cp -L "$libraries/$library" "$2/lib/$machine-linux-gnu/"
        done
        cp -L "$libraries/$(basename "$loader")" "$2$loader"
        echo 'causality:x:10001:10001::/data:/usr/sbin/nologin' > "$2/etc/passwd"
        echo 'causality:x:10001:' > "$2/etc/group"
        ;;
esac
