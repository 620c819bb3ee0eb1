package redox

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/keyring"
	"github.com/seed-963e9c27/vault-plugin-secrets-redox/internal/redoxapi"
)

// userError is an error that a person has to fix: its text says what is wrong, or what to
// do next.
type userError string

func (e userError) Error() string { return string(e) }

func invalid(format string, args ...any) error { return userError(fmt.Sprintf(format, args...)) }

// notFound is an error that says that something does not exist.
type notFound string

func (e notFound) Error() string { return string(e) }

// bareError is an internal error of an endpoint that needs no Vault token. Its text, which
// names no cause, is all that the caller gets.
type bareError string

func (e bareError) Error() string { return string(e) }

func isUnknownKey(err error) bool {
	var refused *redoxapi.Error
	return errors.As(err, &refused) && refused.UnknownKey()
}

// isUpstream reports whether err is an UpstreamError, which may go away without any
// change here.
func isUpstream(err error) bool {
	var up *redoxapi.UpstreamError
	return errors.As(err, &up)
}

// withReader returns errAbandoned if err is an UpstreamError and ctx, the request's own, has
// ended, because then nobody waits for Redox any more. Otherwise it returns err.
func withReader(ctx context.Context, err error) error {
	if ctx.Err() == nil || !isUpstream(err) {
		return err
	}
	return errAbandoned()
}

func errAbandoned() error {
	return &redoxapi.UpstreamError{Kind: redoxapi.Abandoned, What: "the reader hung up, or Vault's max_request_duration " +
		"ended the request, before there was an answer"}
}

// respond turns a handler's error into Vault's answer. Only this function chooses the
// HTTP status of an error. Vault's clients repeat a request after 429 and 5xx, and
// never after 400 or 404: so an error that is known to be permanent gets 400 or 404, and
// any other 429 or 5xx. A coded error must not be wrapped: gRPC would make it a 500.
func respond(err error, requestID string) (*logical.Response, error) {
	var (
		rule    keyring.Rule
		user    userError
		host    *hostError
		missing notFound
		bare    bareError
		refused *redoxapi.Error
		up      *redoxapi.UpstreamError
	)
	switch {
	case errors.Is(err, logical.ErrReadOnly): // Vault compares the text, and forwards the request to the active node
		return nil, logical.ErrReadOnly
	case errors.As(err, &missing):
		return nil, logical.CodedError(http.StatusNotFound, err.Error())
	case errors.As(err, &bare):
		return nil, logical.CodedError(http.StatusInternalServerError, err.Error())
	case errors.As(err, &user), errors.As(err, &host), errors.As(err, &rule), errors.As(err, &refused):
		return logical.ErrorResponse("%s", err), nil
	case errors.As(err, &up):
		return nil, logical.CodedError(upstreamStatus(up.Kind), err.Error())
	}
	return nil, fmt.Errorf("%w (request ID %s)", err, requestID)
}

func upstreamStatus(k redoxapi.Kind) int {
	switch k {
	case redoxapi.RateLimited, redoxapi.Overloaded:
		return http.StatusTooManyRequests
	case redoxapi.TimedOut, redoxapi.Abandoned:
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}
