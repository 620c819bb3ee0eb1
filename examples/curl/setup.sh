#!/usr/bin/env bash
# Sets the engine up through Vault's HTTP API, with curl and jq. What is there
# already stays as it is, so it can be run again. See README.md.
set -euo pipefail

fail() {
	echo "setup.sh: $*" >&2
	exit 1
}
command -v jq >/dev/null || fail "jq is missing"
[ -n "${VAULT_ADDR:+set}" ] || fail "set VAULT_ADDR to the address of Vault, such as https://vault.example.org:8200"
[ -n "${VAULT_TOKEN:+set}" ] || fail "set VAULT_TOKEN to a token that may mount secrets engines"
mount=${REDOX_MOUNT:-redox}

# api <method> <path> [<JSON>] asks Vault, and prints its answer or its error.
# The token comes from standard input: a command line can be seen by everybody
# on the machine, and bash -x shows commands, but not what is fed to them.
api() {
	local answer
	if answer=$(
		curl --silent --show-error --fail-with-body --request "$1" ${3:+--data "$3"} --config - "$VAULT_ADDR/v1/$2" <<-END
			header = "X-Vault-Token: $VAULT_TOKEN"
		END
	); then
		printf '%s\n' "$answer"
	else
		echo "setup.sh: $1 $2: $(jq -r '.errors | join("; ")' <<<"$answer" 2>/dev/null || echo "$answer")" >&2
		return 1
	fi
}

plugin=vault-plugin-secrets-redox
if [ -n "${PLUGIN_SHA256:-}" ]; then
	api POST "sys/plugins/catalog/secret/$plugin" "$(jq -n --arg command $plugin '{$command, sha256: env.PLUGIN_SHA256}')" >/dev/null
fi
if ! api GET "sys/mounts/$mount" >/dev/null 2>&1; then
	api POST "sys/mounts/$mount" "{\"type\": \"$plugin\"}" >/dev/null
fi
if ! api GET "$mount/keys" >/dev/null 2>&1; then
	api POST "$mount/keys/generate" >/dev/null
fi

# The public half of the key, as Redox's dashboard takes it.
api GET "$mount/keys" | jq -r .data.jwks

if [ -z "${REDOX_CLIENT_ID:-}" ]; then
	echo "Paste this JWK Set into the API key's page of Redox's dashboard, press Save Changes, set REDOX_CLIENT_ID to the client ID that the page shows, and run this again." >&2
	exit
fi
api POST "$mount/config" "$(jq -n 'env | {client_id: .REDOX_CLIENT_ID} + if .REDOX_TOKEN_URL then {token_url: .REDOX_TOKEN_URL} else {} end')" >/dev/null
api PUT sys/policies/acl/redox-reader "$(jq -n --arg mount "$mount" '{policy: "path \"\($mount)/token\" { capabilities = [\"read\"] }"}')" >/dev/null

# A real token request. The token is thrown away.
api GET "$mount/check" | jq .data
