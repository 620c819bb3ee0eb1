# What Prometheus may read: the mount's metrics, with the names of its clients.
path "redox/metrics" { capabilities = ["read"] }
