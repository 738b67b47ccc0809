//go:build tools

// Package h2spec holds the versions that the test of HTTP/2 is built from.
package h2spec

import _ "github.com/summerwind/h2spec/cmd/h2spec"
