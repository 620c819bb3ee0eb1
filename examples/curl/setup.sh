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
mount=${mount%/}

# ask <method> <path> [<JSON>] asks Vault, and sets status and answer.
# The token comes from standard input: a command line can be seen by everybody
# on the machine, and bash -x shows commands, but not what is fed to them.
ask() {
	if answer=$(
		curl --silent --show-error --write-out '\n%{http_code}' --request "$1" ${3:+--data "$3"} --config - "$VAULT_ADDR/v1/$2" <<-END
			header = "X-Vault-Token: $VAULT_TOKEN"
		END
	); then
		status=${answer##*$'\n'}
	else
		status=000 # an answer that broke off has a good status too
	fi
	answer=${answer%$'\n'*}
}

# refused <method> <path> ends the script with Vault's reason.
refused() {
	fail "$1 $2: HTTP $status: $(jq -r '.errors | join("; ")' <<<"$answer" 2>/dev/null || echo "$answer")"
}

# api asks Vault as ask does, and prints its answer or its error.
api() {
	ask "$@"
	case $status in
	2??) printf '%s\n' "$answer" ;;
	*) refused "$@" ;;
	esac
}

# missing <path> [<status>] succeeds if Vault answers that the path does not exist. Any
# other error ends the script: otherwise it could create again what exists already.
missing() {
	ask GET "$1"
	case $status in
	404 | "${2:-404}") return 0 ;;
	2??) return 1 ;;
	*) refused GET "$1" ;;
	esac
}

plugin=vault-plugin-secrets-redox
if [ -n "${PLUGIN_SHA256:-}" ]; then
	api POST "sys/plugins/catalog/secret/$plugin" "$(jq -n --arg command $plugin '{$command, sha256: env.PLUGIN_SHA256}')" >/dev/null
fi
if missing "sys/mounts/$mount" 400; then # Vault has no 404 for a mount
	api POST "sys/mounts/$mount" "{\"type\": \"$plugin\"}" >/dev/null
fi
if missing "$mount/keys"; then
	api POST "$mount/keys/generate" >/dev/null
fi

# The public half of the key, as Redox's dashboard takes it.
api GET "$mount/keys" | jq -r .data.jwks

if [ -z "${REDOX_CLIENT_ID:-}" ]; then
	echo "Paste this JWK Set into the API key's page of Redox's dashboard, press Save Changes, set REDOX_CLIENT_ID to the client ID that the page shows, and run this again." >&2
	exit
fi
# The engine talks to Redox's own hosts alone, unless another is allowed.
if [ -n "${REDOX_TOKEN_URL:-}" ]; then
	hosts=$(api GET "$mount/hosts" | jq '{allowed: (.data.allowed + [env.REDOX_TOKEN_URL | capture("^https?://(?<host>[^/]+)").host])}')
	api POST "$mount/hosts" "$hosts" >/dev/null
fi
api POST "$mount/config" "$(jq -n 'env | {client_id: .REDOX_CLIENT_ID} + if .REDOX_TOKEN_URL then {token_url: .REDOX_TOKEN_URL} else {} end')" >/dev/null
# Each mount has its own policy. With one policy for all, the readers of an earlier
# mount would lose access. A policy's name may have slashes, like a mount's.
if missing "sys/policies/acl/$mount-reader"; then
	api PUT "sys/policies/acl/$mount-reader" "$(jq -n --arg mount "$mount" '{policy: "path \"\($mount)/token\" { capabilities = [\"read\"] }"}')" >/dev/null
fi

# A real token request. The token is thrown away.
api GET "$mount/check" | jq .data
