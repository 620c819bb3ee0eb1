# Makes, replaces and deletes keys, and sees that they work. Who imports a key
# knows it, and where the engine publishes the keys has one of his own at Redox.
path "redox/keys"        { capabilities = ["read", "list"] }
path "redox/keys/*"      { capabilities = ["read", "list", "update", "delete"] }
path "redox/keys/import" { capabilities = ["deny"] }
path "redox/check"       { capabilities = ["read"] }
