# Generates, replaces and deletes keys, and checks that they work. It cannot import a
# key: a person who imports a key knows it, and if the engine publishes the keys, he
# has a key of his own at Redox.
path "redox/keys"        { capabilities = ["read", "list"] }
path "redox/keys/*"      { capabilities = ["read", "list", "update", "delete"] }
path "redox/keys/import" { capabilities = ["deny"] }
path "redox/check"       { capabilities = ["read"] }
