path "redox/token" { capabilities = ["read"] }
