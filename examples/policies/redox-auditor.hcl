# Reads everything that is not secret, of all clients, and changes nothing.
path "redox/config"           { capabilities = ["read"] }
path "redox/keys"             { capabilities = ["read", "list"] }
path "redox/keys/*"           { capabilities = ["read"] }
path "redox/metrics"          { capabilities = ["read"] }
path "redox/clients"          { capabilities = ["list"] }
path "redox/clients/+"        { capabilities = ["read"] }
path "redox/clients/+/config" { capabilities = ["read"] }
path "redox/clients/+/keys"   { capabilities = ["read", "list"] }
path "redox/clients/+/keys/+" { capabilities = ["read", "list"] } # OpenBao compares a list's path with its slash
