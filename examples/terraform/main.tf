# The engine, a key, the settings and the policies of a mount at redox/. Register
# the plugin first: that needs the binary, and is not done with Terraform.

terraform {
  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 4.0, < 6.0"
    }
  }
}

variable "client_id" {
  description = "Client ID that Redox's dashboard shows when it has the public key; null before that"
  type        = string
  default     = null
}

variable "region" {
  description = "us or ca: where the organization is at Redox"
  type        = string
  default     = "us"
}

resource "vault_mount" "redox" {
  path        = "redox"
  type        = "vault-plugin-secrets-redox"
  description = "Access tokens for Redox"

  # Deleting the mount deletes its keys, and nobody has a copy of them.
  lifecycle {
    prevent_destroy = true
  }
}

# Vault generates the key and keeps it. The state gets only the key's ID.
resource "vault_generic_endpoint" "key" {
  path           = "${vault_mount.redox.path}/keys/generate"
  data_json      = jsonencode({ key_bits = 2048 })
  disable_read   = true # there is nothing to read
  disable_delete = true # nor to delete
  write_fields   = ["key_id"]

  # Writing again would generate another key. Use keys/rotate to replace a key.
  lifecycle {
    prevent_destroy = true
    ignore_changes  = all
  }
}

# This reads only the state of the keys and their public halves. Never read
# redox/token like this: Terraform's state would contain a token.
data "vault_generic_secret" "keys" {
  path                  = "${vault_mount.redox.path}/keys"
  with_lease_start_time = false
  depends_on            = [vault_generic_endpoint.key]
}

# Paste it at Redox, press Save Changes, and set client_id to what it shows.
output "jwks" {
  value = nonsensitive(data.vault_generic_secret.keys.data["jwks"])
}

# Write durations in seconds, as Vault shows them: otherwise each plan would find a
# difference.
resource "vault_generic_endpoint" "config" {
  count = var.client_id == null ? 0 : 1

  path                 = "${vault_mount.redox.path}/config"
  ignore_absent_fields = true # the rest has defaults
  data_json = jsonencode({
    client_id       = var.client_id
    region          = var.region
    public_jwks     = true
    rotation_period = 7776000 # 90 days
  })

  depends_on = [vault_generic_endpoint.key]
}

# Who may do what: see ../policies, which are for a mount at redox/.
resource "vault_policy" "persona" {
  for_each = toset(["reader", "key-officer", "admin", "auditor"])

  name   = "redox-${each.key}"
  policy = replace(file("${path.module}/../policies/redox-${each.key}.hcl"), "\"redox/", "\"${vault_mount.redox.path}/")
}
