# Makes, replaces and deletes keys, and sees that they work.
path "redox/keys"   { capabilities = ["read", "list"] }
path "redox/keys/*" { capabilities = ["read", "list", "update", "delete"] }
path "redox/check"  { capabilities = ["read"] }
