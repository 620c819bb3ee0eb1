package redox

// Version is what the plugin reports of itself, as Vault wants it: v and a
// semantic version. A release sets it with -ldflags "-X …".
var Version = "v0.1.0-dev"
