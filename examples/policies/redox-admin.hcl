path "redox/config" { capabilities = ["read", "update", "patch", "delete"] }
path "redox/hosts"  { capabilities = ["read", "update", "delete", "sudo"] }
path "redox/keys"   { capabilities = ["read", "list"] }
path "redox/keys/*" { capabilities = ["read", "list", "update", "delete"] }
path "redox/check"  { capabilities = ["read"] }
