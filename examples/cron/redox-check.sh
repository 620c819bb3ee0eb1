#!/bin/sh
# Tests the connection to Redox, for cron or a monitoring system:
#
#   redox-check.sh [path of a check]...
#
# Without a path it is redox/check. It ends with 0 and says nothing when all is
# well, with 1 when there is a warning, such as a rotation that waits for
# somebody, and with 2 when no token can be had; then it says what to fix.
set -u
[ $# -gt 0 ] || set -- redox/check

worst=0
# complain <status> <what it is about> <what Vault says>
complain() {
	printf '%s: %s\n' "$2" "$3"
	[ "$1" -le "$worst" ] || worst=$1
}

# The token is one with a period: used at least that often, it never ends.
said=$(vault token renew 2>&1 >/dev/null) || complain 2 "the Vault token of this check" "$said"
for path; do
	# Warnings come on stderr; the answer itself is of no interest.
	if ! said=$(vault read "$path" 2>&1 >/dev/null); then
		complain 2 "$path" "$said"
	elif [ -n "$said" ]; then
		complain 1 "$path" "$said"
	fi
done
exit "$worst"
