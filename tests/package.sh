#!/usr/bin/env bash
# The life of the Debian package: built, looked at, installed, configured, run against the simulator, upgraded with its
# state kept, removed, purged. Takes the program and the simulator that `cargo build --examples` left; about half a minute.
#
# It is installed into a throw-away layer over this machine's files. Where no such layer can be made it is installed on the
# machine itself and purged afterwards, but only without a running systemd and without a trace of an earlier installation.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "the package was not tested: $*" >&2
    exit 0
}

fail() {
    echo "package: $*" >&2
    exit 1
}

# What happens to an installed package; runs where it may be installed.
life() {
    local work="$1" first="$2" second="$3"
    export LC_ALL=C DEBIAN_FRONTEND=noninteractive
    local policy=/usr/sbin/policy-rc.d
    [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; made_policy=1; }

    echo "installs" >&2
    dpkg -i "$first" >"$work/dpkg.log" 2>&1 || fail "it does not install: $(tail -5 "$work/dpkg.log")"
    [ "$(referrald --version)" = "referrald $version" ] || fail "another program answers: $(referrald --version)"
    [ "$(stat -c %a /etc/referrald/secrets)" = 700 ] || fail "the folder for secrets is open"
    [ -z "$(dpkg --verify referrald)" ] || fail "files differ after the installation: $(dpkg --verify referrald)"
    bash -n /usr/share/bash-completion/completions/referrald || fail "the bash completions are no bash"
    grep -q '"title": "referrald.toml"' /usr/share/referrald/referrald.schema.json || fail "the schema is not there"
    referrald config check 2>&1 | grep -q 'dataverse.url' || fail "config check does not say what is still missing"
    local code=0
    referrald plan >/dev/null 2>&1 || code=$?
    [ "$code" = 78 ] || fail "a plan with the configuration as installed ends with $code instead of 78"

    echo "is configured, also as an instance" >&2
    # The umask of a careful administrator must not keep the unit's user from reading.
    local answers="--non-interactive --offline --tenant aaaaaaaa-0000-4000-8000-000000000001
        --client cccccccc-0000-4000-8000-000000000001 --url https://contoso.crm4.dynamics.com"
    # shellcheck disable=SC2086
    (umask 077 && echo a~secret | referrald init $answers >"$work/init.log") || fail "init failed: $(cat "$work/init.log")"
    # shellcheck disable=SC2086
    (umask 077 && echo b~secret | referrald --instance contoso init $answers >"$work/init.log") || fail "init failed for an instance"
    local unit file
    for unit in referrald referrald@contoso; do
        file="/etc/systemd/system/$unit.service.d/10-secrets.conf"
        grep -q '^LoadCredential=dataverse-secret:' "$file" || fail "init writes no $file"
        [ "$(stat -c %a "$file")" = 644 ] || fail "systemd's drop-in has an odd mode"
    done
    for file in /etc/referrald /etc/referrald/contoso; do
        [ "$(stat -c '%a %n' "$file")" = "755 $file" ] || fail "the unit's user may not enter $file"
        [ "$(stat -c %a "$file/referrald.toml")" = 644 ] || fail "the unit's user may not read $file/referrald.toml"
        [ "$(stat -c %a "$file/secrets")" = 700 ] || fail "secrets lie open in $file"
    done
    grep -q '^directory = "/var/lib/referrald/contoso"' /etc/referrald/contoso/referrald.toml || fail "an instance shares its state"
    grep -q 'enable --now referrald@contoso' "$work/init.log" || fail "init does not say how an instance is started"
    local judged
    judged="$(referrald --instance contoso doctor --json || true)"
    ! grep -q 'there is no credential' <<<"$judged" || fail "doctor does not find the credentials of an instance"
    grep -q 'referrald@' <<<"$judged" || fail "doctor looks at another unit than the instance's"
    grep -q 'referrald --instance contoso login' <<<"$judged" || fail "what doctor says to type means another instance"
    rm -rf /var/lib/referrald

    echo "runs" >&2
    mkfifo "$work/orders"
    "$work/simulator" "$work/services" 5 7 <"$work/orders" >"$work/answers" &
    exec 9>"$work/orders"
    for _ in $(seq 600); do
        [ ! -s "$work/answers" ] || break
        sleep 0.1
    done
    sed 's#^directory = .*#directory = "/var/lib/referrald"#' "$work/services/referrald.toml" >/etc/referrald/referrald.toml
    chmod 600 "$work/services/secret" "$work/services/refresh"
    referrald config check >/dev/null || fail "the simulator's configuration is refused"
    code=0
    referrald plan >"$work/plan.log" 2>&1 || code=$?
    [ "$code" = 3 ] || fail "plan ends with $code instead of 3: $(cat "$work/plan.log")"
    referrald once >"$work/once.log" 2>&1 || fail "once failed: $(cat "$work/once.log")"
    local linked
    linked="$(referrald status --json | grep '"linked"')"
    [ "$linked" != '  "linked": 0,' ] || fail "no lead was made"
    daemon_up "$work"
    referrald explain "$(referrald state export | sed -n '2s/.*"id":"\([^"]*\)".*/\1/p')" >/dev/null || fail "explain failed"
    daemon_down

    echo "upgrades with its state kept" >&2
    dpkg -i --force-confold "$second" >"$work/dpkg.log" 2>&1 || fail "no upgrade: $(tail -5 "$work/dpkg.log")"
    [ "$(dpkg-query -W -f '${Version}' referrald)" = "$version+upgraded-1" ] || fail "the new version is not installed"
    grep -q '^writes = "both"' /etc/referrald/referrald.toml || fail "the upgrade took the configuration away"
    [ "$(referrald status --json | grep '"linked"')" = "$linked" ] || fail "the upgrade lost the state"
    referrald once >"$work/once.log" 2>&1 || fail "once after the upgrade failed: $(cat "$work/once.log")"
    grep -q 'nothing was written' "$work/once.log" || fail "the upgrade wrote again: $(cat "$work/once.log")"
    daemon_up "$work"
    daemon_down

    echo "is removed, then purged" >&2
    dpkg -r referrald >"$work/dpkg.log" 2>&1 || fail "it cannot be removed: $(tail -5 "$work/dpkg.log")"
    [ ! -e /usr/bin/referrald ] || fail "the program is still there after a removal"
    [ -e /etc/referrald/referrald.toml ] && [ -d /var/lib/referrald/keep ] || fail "a removal takes more than the program"
    dpkg -P referrald >"$work/dpkg.log" 2>&1 || fail "it cannot be purged: $(tail -5 "$work/dpkg.log")"
    local left
    left="$(ls -d /etc/systemd/system/referrald*.service.d /etc/referrald /var/lib/referrald /var/lib/private/referrald /usr/share/referrald /usr/share/doc/referrald 2>/dev/null || true)"
    [ -z "$left" ] || fail "a purge leaves $left"
    exec 9>&-
    [ -z "${made_policy:-}" ] || rm -f "$policy"
}

daemon_up() {
    referrald run >"$1/daemon.log" 2>&1 &
    daemon=$!
    for _ in $(seq 600); do
        ! referrald reconcile >/dev/null 2>&1 || return 0
        kill -0 "$daemon" 2>/dev/null || fail "the daemon ended: $(tail -5 "$1/daemon.log")"
        sleep 0.1
    done
    fail "the daemon does not answer: $(tail -5 "$1/daemon.log")"
}

daemon_down() {
    kill -TERM "$daemon"
    wait "$daemon" || fail "the daemon ended with $?"
}

if [ "${1:-}" = --life ]; then
    version="$5"
    life "$2" "$3" "$4"
    exit 0
fi

command -v dpkg-deb >/dev/null || skip "this is no Debian"
command -v cargo-deb >/dev/null || skip "cargo-deb is missing: cargo install cargo-deb --locked"
built="$(realpath "${CARGO_TARGET_DIR:-target}")/debug"
[ -x "$built/referrald" ] && [ -x "$built/examples/simulator" ] || fail "first: cargo build --bins --examples"
version="$("$built/referrald" --version | cut -d' ' -f2)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

echo "is built" >&2
for release in "$version-1" "$version+upgraded-1"; do
    systemd/debian/build "$built/referrald" --fast -q --deb-version "$release" -o "$work/$release.deb" >"$work/build.log" 2>&1 ||
        fail "it cannot be built: $(tail -5 "$work/build.log")"
done
package="$work/$version-1.deb"
cp "$built/examples/simulator" "$work/simulator"

echo "looks right" >&2
dpkg-deb -c "$package" >"$work/contents"
! awk '{ print $1, $2 }' "$work/contents" | grep -v '^\(drwxr-xr-x\|-rw-r--r--\|-rwxr-xr-x\) \(0/0\|root/root\)$' ||
    fail "files with an odd mode or owner"
! awk '{ print $6 }' "$work/contents" | grep -v '^\./\(usr/\|etc/\)' || fail "files in odd places"
for wanted in usr/bin/referrald usr/lib/systemd/system/referrald.service usr/lib/systemd/system/referrald@.service \
    usr/lib/systemd/system/referrald.socket usr/share/man/man1/referrald.1.gz usr/share/man/man1/referrald-explain.1.gz \
    usr/share/bash-completion/completions/referrald usr/share/zsh/vendor-completions/_referrald \
    usr/share/fish/vendor_completions.d/referrald.fish usr/share/referrald/referrald.schema.json \
    usr/share/doc/referrald/copyright usr/share/doc/referrald/README.md etc/referrald/referrald.toml; do
    grep -q " \./$wanted\$" "$work/contents" || fail "$wanted is missing"
done
[ "$(grep -c ' \./usr/lib/systemd/system/referrald@.service$' "$work/contents")" = 1 ] || fail "a unit is in it twice"
dpkg-deb -e "$package" "$work/control"
[ "$(cat "$work/control/conffiles")" = /etc/referrald/referrald.toml ] || fail "the configuration is no conffile"
for script in postinst prerm postrm; do
    sh -n "$work/control/$script" || fail "$script is no shell script"
    ! grep -q DEBHELPER "$work/control/$script" || fail "$script was not filled in"
done
grep -q '^writes = "off"$' config/package.toml || fail "a new installation would write"
if command -v lintian >/dev/null; then
    lintian --fail-on error "$package"
fi

[ "$(id -u)" = 0 ] || skip "it was built and looked at; to install it takes root"
layer() {
    mkdir "$work/layer"
    mount -t tmpfs none "$work/layer" && mkdir "$work/layer/upper" "$work/layer/work" "$work/layer/root" &&
        mount -t overlay overlay -o "lowerdir=/,upperdir=$work/layer/upper,workdir=$work/layer/work" "$work/layer/root"
}
export -f layer
export work
if unshare --mount --propagation private bash -c layer 2>/dev/null; then
    rmdir "$work/layer"
    unshare --mount --propagation private bash -euc '
        layer
        root="$work/layer/root"
        mkdir -p "$root$work"
        mount --bind "$work" "$root$work"
        mount --rbind /dev "$root/dev"
        mount --rbind /proc "$root/proc"
        cp "$1" "$root/package.sh"
        chroot "$root" bash /package.sh --life "$work" "$work/$2-1.deb" "$work/$2+upgraded-1.deb" "$2"
    ' - "$PWD/tests/package.sh" "$version"
elif [ -d /run/systemd/system ] || dpkg -s referrald >/dev/null 2>&1 || [ -e /etc/referrald ] || [ -e /var/lib/referrald ]; then
    skip "it was built and looked at; no layer over this machine's files can be made, and the machine itself is in use"
else
    undo() {
        dpkg -P referrald >/dev/null 2>&1 || true
        rm -rf "$work"
    }
    trap undo EXIT
    bash tests/package.sh --life "$work" "$work/$version-1.deb" "$work/$version+upgraded-1.deb" "$version"
fi
echo "the package is in order" >&2
