# consul-template keeps the file redox-token filled with a valid access token.
# Relative paths are looked up where it is started.

vault {
  address                = "https://vault.example.org:8200" # -vault-addr goes before it
  vault_agent_token_file = "vault-token"                    # of a token that somebody else renews

  retry {
    attempts    = 0    # goes on for ever
    max_backoff = "5s" # the longest pause between two of them
  }
}

template {
  source      = "token.ctmpl"
  destination = "redox-token"
  perms       = 0600

  # Rather keep the old file than write "<no value>".
  error_on_missing_key = true
}
