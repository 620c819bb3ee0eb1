# Vault Agent keeps the file redox-token filled with a valid access token.
# Relative paths are looked up where the agent is started.

vault {
  address = "https://vault.example.org:8200" # VAULT_ADDR goes before it
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "role-id"
      secret_id_file_path = "secret-id"

      # The agent reads it again when it is restarted.
      remove_secret_id_file_after_reading = false
    }
  }
}

template {
  source      = "token.ctmpl"
  destination = "redox-token"
  perms       = "0600"

  # Rather keep the old file than write "<no value>".
  error_on_missing_key = true
}
