package redox

// Version is the version that the plugin reports. Vault requires a semantic version with v
// before it. A release sets it with -ldflags "-X …".
var Version = "v0.1.0-dev"
