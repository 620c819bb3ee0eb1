#!/usr/bin/env python3
"""Searches patients at Redox, with access tokens that it reads from Vault:
for each family name on standard input it prints how many were found."""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


class Failure(Exception):
    """A request failed, with an HTTP status, or 0 if there was no answer."""

    def __init__(self, message, status=0):
        super().__init__(message)
        self.status = status
        self.may_pass = status in (0, 429) or status >= 500


class Redox:
    """For one thread; for several, put a lock around access_token."""

    token = ""
    renew_at = ends_at = 0.0  # when to read the next token, and when Redox refuses this one

    def access_token(self):
        """Returns the token that was read last, until it is time for the next."""
        pause = 1
        while not self.token or time.monotonic() >= self.renew_at:
            try:
                self.read()
                break
            except Failure as failure:
                if not failure.may_pass:
                    raise
                if self.token and time.monotonic() < self.ends_at:
                    break  # without a new one, the old one does as long as it lives
                if pause > 8:
                    raise
            time.sleep(pause)
            pause *= 2
        return self.token

    def read(self):
        """Reads a token from Vault."""
        vault_token = os.environ.get("VAULT_TOKEN", "")
        if "VAULT_TOKEN_FILE" in os.environ:  # each time, as Vault Agent replaces it
            with open(os.environ["VAULT_TOKEN_FILE"], encoding="utf-8") as file:
                vault_token = file.read()
        asked = time.monotonic()  # the token's life may begin at once
        data = send(os.environ["VAULT_ADDR"] + "/v1/redox/token", {"X-Vault-Token": vault_token.strip()})["data"]
        self.token = data["access_token"]
        self.renew_at, self.ends_at = asked + data["ttl"], asked + data["expires_in"]

    def patients(self, family):
        """Searches by family name. A token that Redox refuses is replaced once."""
        url = os.environ["REDOX_FHIR_BASE"] + "/Patient/_search"
        form = urllib.parse.urlencode({"family": family}).encode()
        try:
            return send(url, {"Authorization": "Bearer " + self.access_token()}, form)
        except Failure as failure:
            if failure.status != 401:
                raise
        self.token = ""
        return send(url, {"Authorization": "Bearer " + self.access_token()}, form)


def send(url, headers, form=None):
    """Returns the JSON that answers a request: a POST if there is a form."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, form, headers), timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            reason = "; ".join(json.load(error)["errors"])  # Vault says what to mend
        except (ValueError, KeyError, TypeError):
            reason = error.reason
        raise Failure(f"{url}: HTTP {error.code}: {reason}", error.code) from None
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
        raise Failure(f"{url}: {type(error).__name__}") from None


if __name__ == "__main__":
    redox = Redox()
    try:
        for line in sys.stdin:
            print(f"{line.strip()}: {redox.patients(line.strip())['total']} found", flush=True)
    except Failure as failure:
        sys.exit(f"redox.py: {failure}")
