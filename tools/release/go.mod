module github.com/seed-963e9c27/vault-plugin-secrets-redox/tools/release

go 1.26.0

toolchain go1.26.8

require github.com/google/licensecheck v0.3.1
