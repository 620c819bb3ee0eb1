package redox

// Version is the version that the plugin reports. Vault requires v and a semantic
// version. A release sets it with -ldflags "-X …".
var Version = "v0.1.0-dev"
