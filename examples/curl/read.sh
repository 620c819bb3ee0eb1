#!/usr/bin/env bash
# Searches patients at Redox with a token from Vault. The FHIR search comes from
# standard input, as a patient's name belongs on no command line:
#
#     echo family=Green | ./read.sh
set -euo pipefail

fail() {
	echo "read.sh: $*" >&2
	exit 1
}
command -v jq >/dev/null || fail "jq is missing"
[ -n "${VAULT_ADDR:+set}" ] || fail "set VAULT_ADDR to the address of Vault, such as https://vault.example.org:8200"
mount=${REDOX_MOUNT:-redox}
mount=${mount%/}
[ -n "${VAULT_TOKEN:+set}" ] || fail "set VAULT_TOKEN to a token with the policy $mount-reader"
[ -n "${REDOX_FHIR_BASE:-}" ] || fail "set REDOX_FHIR_BASE, such as https://api.redoxengine.com/fhir/R4/redox-fhir-sandbox/Development"

# Both tokens go from file to file. A command line can be seen by everybody on
# the machine, and bash -x shows the value of each variable that is set.
umask 077
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

read_token() {
	curl --silent --show-error --fail-with-body --retry 3 --output "$dir/answer" --config - "$VAULT_ADDR/v1/$mount/token" <<-END
		header = "X-Vault-Token: $VAULT_TOKEN"
	END
}
for pause in 1 2 4 0; do
	! read_token || break
	# Vault answers this with 404 on a node that lacks the plugin's file; another node may have it.
	if [ "$pause" = 0 ] || ! grep -q "no handler for route" "$dir/answer"; then
		fail "Vault: $({ jq -r '.errors | join("; ")' "$dir/answer" || cat "$dir/answer"; } 2>/dev/null)"
	fi
	sleep "$pause"
done
jq -r '"Authorization: Bearer " + .data.access_token' "$dir/answer" >"$dir/header"
curl --silent --show-error --fail-with-body --header @"$dir/header" --data @- "$REDOX_FHIR_BASE/Patient/_search"
