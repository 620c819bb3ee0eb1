#!/usr/bin/env python3
"""Searches patients at Redox, with access tokens that it reads from Vault.
For each family name on standard input it prints how many were found."""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


class Failure(Exception):
    """A request failed, with its HTTP status, or 0 if no usable answer came, or
    NOT_ASKED if there is no Vault token: waiting does not help."""

    NOT_ASKED = -1

    def __init__(self, message, status=0):
        super().__init__(message)
        self.status = status
        no_plugin = status == 404 and "no handler for route" in message  # on this node of Vault
        self.may_pass = status in (0, 429) or status >= 500 or no_plugin
        self.keeps_old = self.may_pass or status == self.NOT_ASKED


class Redox:
    """For one thread: several need one object each, or a lock around each call."""

    token = ""
    renew_at = ends_at = 0.0  # when to read the next token, and when Redox refuses this one

    def access_token(self):
        """Returns the last token, and reads a new one first when it is time."""
        pause = 1
        while not self.token or time.monotonic() >= self.renew_at:
            try:
                self.read()
                break
            except Failure as failure:
                if failure.keeps_old and self.token and time.monotonic() < self.ends_at:
                    break  # without a new one, the old one does as long as it lives
                if not failure.may_pass or pause > 8:
                    raise
            time.sleep(pause)
            pause *= 2
        return self.token

    def read(self):
        """Reads a token from Vault."""
        vault_token = os.environ.get("VAULT_TOKEN", "")
        file_name = os.environ.get("VAULT_TOKEN_FILE")
        if file_name:  # each time, as Vault Agent replaces it
            try:
                with open(file_name, encoding="utf-8") as file:
                    vault_token = file.read()
            except (OSError, ValueError) as error:
                raise Failure(f"VAULT_TOKEN_FILE: {error}", Failure.NOT_ASKED) from None
        url = os.environ["VAULT_ADDR"] + "/v1/redox/token"
        asked = time.monotonic()  # the token's life may begin at once
        answer = send(url, {"X-Vault-Token": vault_token.strip()})
        try:
            data = answer["data"]
            token, renew_at, ends_at = data["access_token"], asked + data["ttl"], asked + data["expires_in"]
            if not isinstance(token, str) or not token:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise Failure(f"{url}: the answer holds no token") from None
        self.token, self.renew_at, self.ends_at = token, renew_at, ends_at

    def patients(self, family):
        """Returns how many have the name. If Redox refuses the token, it tries once more."""
        url = os.environ["REDOX_FHIR_BASE"] + "/Patient/_search"
        form = urllib.parse.urlencode({"family": family}).encode()
        try:
            answer = send(url, {"Authorization": "Bearer " + self.access_token()}, form)
        except Failure as failure:
            if failure.status != 401:
                raise
            self.token = ""
            answer = send(url, {"Authorization": "Bearer " + self.access_token()}, form)
        if "total" not in answer:
            raise Failure(f"{url}: the answer holds no total")
        return answer["total"]


def send(url, headers, form=None):
    """Returns the JSON object that answers a request: a POST if there is a form."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, form, headers), timeout=30) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        try:
            reason = "; ".join(json.load(error)["errors"])  # Vault says what to fix
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            reason = error.reason
        raise Failure(f"{url}: HTTP {error.code}: {reason}", error.code) from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # its text may hold a header
        raise Failure(f"{url}: {type(error).__name__}") from None
    if not isinstance(answer, dict):
        raise Failure(f"{url}: the answer is no JSON object")
    return answer


if __name__ == "__main__":
    if not os.environ.get("VAULT_ADDR") or not os.environ.get("REDOX_FHIR_BASE"):
        sys.exit("redox.py: set VAULT_ADDR and REDOX_FHIR_BASE")
    redox = Redox()
    try:
        for line in sys.stdin:
            print(f"{line.strip()}: {redox.patients(line.strip())} found", flush=True)
    except Failure as failure:
        sys.exit(f"redox.py: {failure}")
