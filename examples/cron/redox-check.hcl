# What a check may do: ask Redox for a token that is thrown away at once.
path "redox/check"           { capabilities = ["read"] }
path "redox/clients/+/check" { capabilities = ["read"] }
