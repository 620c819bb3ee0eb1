#!/bin/sh
# Tests the connection to Redox, for cron or a monitoring system:
#
#   redox-check.sh [path of a check]...
#
# Without a path it is redox/check. It ends with 0 and prints nothing if all is well.
# It ends with 1 if there is a warning, such as a rotation that waits for a person,
# and with 2 if there is no token. Then it prints what to fix.
set -u
[ $# -gt 0 ] || set -- redox/check

worst=0
# complain <status> <what it is about> <what Vault says>
complain() {
	printf '%s: %s\n' "$2" "$3"
	[ "$1" -le "$worst" ] || worst=$1
}

# This is a periodic token: it never ends if it is renewed at least once a period.
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
